"""Shared HTTP constants."""

JSON = "application/json"
NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"
"""Server-sent events, as the HTML standard defines them."""
MERGE_PATCH = "application/merge-patch+json"
PATCHES = (MERGE_PATCH, JSON)
"""Accepted media types of a PATCH body."""
CURL_DEFAULT = "application/x-www-form-urlencoded"
"""Content-Type that `curl -d` sends by default."""


def media_type(content_type: str | None) -> str:
    """Return the media type of a Content-Type header, in lower case and without parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


CLIENT_CLOSED_REQUEST = 499
"""Status of a request whose client disconnected before the response, in metrics and the access log (as in nginx).

It is no failure of the service, so not a 5xx. It is never sent: nobody could receive it."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
RETRY_AFTER = "1"
"""Seconds to wait before retrying a request that failed because a component was unavailable."""
