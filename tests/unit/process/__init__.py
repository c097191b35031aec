"""Unit tests of `guidsvc.process`."""
