"""Unit tests of `guidsvc.telemetry`."""
