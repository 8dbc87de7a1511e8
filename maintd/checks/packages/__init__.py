"""Packages that lock files of npm and Python pin, and what is known against them."""
