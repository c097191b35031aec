"""Unit tests of `guidsvc.cache`."""
