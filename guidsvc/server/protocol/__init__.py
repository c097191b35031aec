"""The HTTP/1.1 protocol: one connection from its first byte to its last."""
