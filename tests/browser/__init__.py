"""Tests that need a browser: `make test-browser`. The others do without."""
