"""Checks of what the service depends on: the store, Redis, and the keys."""
