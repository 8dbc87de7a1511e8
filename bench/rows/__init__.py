"""The rows of the comparison, a module for each kind."""
