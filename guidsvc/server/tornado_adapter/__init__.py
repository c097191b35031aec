"""What `guidsvc.server.tornado_server` adds to Tornado's server, for each connection and each request."""
