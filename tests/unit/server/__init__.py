"""Unit tests of `guidsvc.server`."""
