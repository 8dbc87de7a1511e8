"""Backups as files: found in folders, read to their last byte, and compared with checksums and expectations."""
