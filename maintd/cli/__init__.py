"""The commands. `maintd.__main__` answers a plain `maintd status` without them."""
