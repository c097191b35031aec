"""Writes of records: one at a time, under generated GUIDs, and in groups."""
