"""The daemon: it decides which runs are due, writes their rows and keeps the calendar current."""
