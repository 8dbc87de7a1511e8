"""One module per revision; the number at the head of its name is the revision."""
