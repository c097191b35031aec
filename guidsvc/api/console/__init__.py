"""The console at `/console`: pages that use only the HTTP interface of the service."""
