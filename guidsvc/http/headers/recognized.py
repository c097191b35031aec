"""The request headers that the service reads. All others are dropped when its head is complete.

A test compares this table with the code, so a new reader must add its header here.
"""

READ = frozenset(
    {
        # The connection layer
        b"host",
        b"connection",
        b"upgrade",
        b"expect",
        b"content-length",
        b"transfer-encoding",
        # Who sends it
        b"authorization",
        b"origin",
        b"access-control-request-method",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-request-id",
        # What it asks for
        b"accept",
        b"content-type",
        b"content-encoding",
        b"idempotency-key",
        b"if-match",
        b"if-none-match",
        b"prefer",
    }
)
"""Names in lower case."""
MAX_HEADERS = 100
"""Header lines of a request, read or not."""
