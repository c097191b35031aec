"""The commands over HTTP, against the real service."""
