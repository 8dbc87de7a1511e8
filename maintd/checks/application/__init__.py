"""The application: images, limits of its containers, and its runtimes."""
