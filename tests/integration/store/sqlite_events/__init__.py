"""Tests of the event log of the SQLite store."""
