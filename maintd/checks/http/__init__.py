"""Services by HTTP: health, and the figures that they report."""
