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
        # Client
        b"early-data",
        b"authorization",
        b"origin",
        b"access-control-request-method",
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"sec-fetch-dest",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-request-id",
        b"traceparent",
        b"tracestate",
        # Content and conditions
        b"accept",
        b"accept-encoding",
        b"content-type",
        b"content-encoding",
        b"idempotency-key",
        b"if-match",
        b"if-none-match",
        b"last-event-id",
        b"prefer",
    }
)
"""Header names in lower case."""
MAX_HEADERS = 100
"""Maximum number of header lines of a request, including unread ones."""
