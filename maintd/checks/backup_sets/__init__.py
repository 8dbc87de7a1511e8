"""Sets of backups that maintd makes itself: written below a temporary name, hashed and decoded, kept by number."""
