"""Functions of the application around each call."""
