"""Hosts: memory, load, pressure, file systems and folders."""
