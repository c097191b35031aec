"""The HTTP/1.1 protocol: connections, parsing, and responses."""
