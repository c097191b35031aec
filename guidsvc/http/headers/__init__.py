"""Parsing and rendering of HTTP headers."""
