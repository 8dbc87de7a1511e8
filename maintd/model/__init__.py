"""The values that the store returns, the API serves and the CLI parses: frozen, with aware UTC times."""
