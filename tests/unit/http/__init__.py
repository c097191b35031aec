"""Unit tests of `guidsvc.http`."""
