"""Updates of a host's operating system, from its files: packages, kernel, restarts, support."""
