"""Parsing and validation of request bodies, queries and conditional headers."""
