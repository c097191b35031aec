"""Unit tests of `guidsvc.auth`."""
