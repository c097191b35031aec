"""The HTTP server: sockets, TLS, and two implementations (guidsvc's own and Tornado's)."""
