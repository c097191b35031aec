"""Unit tests of `guidsvc.services`."""
