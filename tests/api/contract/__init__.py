"""Tests of what all resources have in common."""
