"""The memory of a request that has no response yet."""

LARGE_DOCUMENT_BYTES = 60 * 1024 * 1024
"""Most that a batch document of 4 MiB takes once it is decoded."""

SMALL_DOCUMENT_BYTES = 2 * 1024 * 1024
"""Most that a batch document of 64 KiB takes once it is decoded."""

OPEN_REQUEST_BYTES = 32 * 1024
"""Most that one takes beside its bytes: a batch of lines with `validate_only`."""

TLS_CONNECTION_BYTES = 320 * 1024
"""Most that a TLS connection takes between two requests, with the holes in the heap that it leaves."""
