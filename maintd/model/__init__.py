"""Frozen value types that the store returns, the API serves and the CLI parses; every time is an aware UTC datetime."""
