"""The console at `/console`: pages that use the HTTP interface of the service, and nothing else of it."""
