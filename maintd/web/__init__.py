"""The HTTP face: API, page, metrics and health."""
