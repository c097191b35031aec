"""Accepting of connections: limits, descriptors, the TLS handshake, rejection."""
