"""The memory of a request that is not complete."""

OPEN_REQUEST_BYTES = 32 * 1024
"""Most that one takes beside its bytes: a batch of lines with `validate_only`."""

TLS_CONNECTION_BYTES = 320 * 1024
"""Most that a TLS connection takes between two requests, with the holes in the heap that it leaves."""
