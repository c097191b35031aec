"""Searches of the SQLite file."""
