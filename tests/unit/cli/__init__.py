"""Unit tests of `guidsvc.cli`."""
