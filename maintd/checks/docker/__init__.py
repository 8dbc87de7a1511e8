"""Docker engines: containers, images, and what nothing uses any more."""
