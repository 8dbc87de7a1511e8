"""The command line. `maintd.__main__` runs a plain `maintd status` without importing it."""
