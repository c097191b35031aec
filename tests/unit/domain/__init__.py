"""Unit tests of `guidsvc.domain`."""
