"""Unit tests of `guidsvc.store`."""
