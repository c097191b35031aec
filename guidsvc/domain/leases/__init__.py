"""Leases: lives that are counted from now, their renewal, and their limits: pure functions."""
