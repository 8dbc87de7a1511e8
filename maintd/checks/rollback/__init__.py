"""What ran before a change, recorded so that it can be restored."""
