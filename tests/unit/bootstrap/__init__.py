"""Unit tests of `guidsvc.bootstrap`."""
