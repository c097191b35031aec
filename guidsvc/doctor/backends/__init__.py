"""Checks of the dependencies of the service: the store, Redis, and the keys."""
