"""Certificates: what servers present, what is stored, and whether renewal works."""
