"""Unit tests of `guidsvc.runtime`."""
