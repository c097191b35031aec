"""What happens to a new connection: limits, descriptors, the TLS handshake, rejection."""
