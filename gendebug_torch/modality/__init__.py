"""What an image, a text or a series is described by: properties in words, and named changes."""
