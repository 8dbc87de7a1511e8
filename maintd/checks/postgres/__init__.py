"""Postgres: health, tables, indexes, vacuum, reindex and what blocks them."""
