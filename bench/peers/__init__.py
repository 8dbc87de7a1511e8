"""What maintd is measured against in the same run, and the daemon as a process to measure."""
