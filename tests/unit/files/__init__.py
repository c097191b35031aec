"""Unit tests of `guidsvc.files`."""
