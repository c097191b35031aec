"""Tests that need a browser or Node.js: `make test-browser`."""
