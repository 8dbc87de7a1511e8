"""The effective configuration of a stack: what it is, how it differs from what a person approved, and what is wrong."""
