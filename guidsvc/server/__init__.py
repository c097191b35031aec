"""The HTTP server: sockets, TLS, and the two implementations (our own and Tornado's)."""
