"""One module per revision; its name begins with the revision's number."""
