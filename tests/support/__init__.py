"""Shared test helpers: real servers, sample data, and ways to run jobs, nodes and stores."""
