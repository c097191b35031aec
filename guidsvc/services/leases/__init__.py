"""Renewal of leases."""
