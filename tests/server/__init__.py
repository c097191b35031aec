"""Tests of the HTTP server over raw sockets."""
