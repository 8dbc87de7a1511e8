"""What jobs need of their targets, declared once for the job and for `doctor`, and exercised before it is needed."""
