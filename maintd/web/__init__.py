"""The HTTP side: API, web page, metrics and health endpoints."""
