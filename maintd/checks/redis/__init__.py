"""Redis: health, memory, keys, streams and persistence."""
