"""Constants of HTTP that several modules share."""

JSON = "application/json"
NDJSON = "application/x-ndjson"
MERGE_PATCH = "application/merge-patch+json"
PATCHES = (MERGE_PATCH, JSON)
"""What the body of a PATCH can be."""
CURL_DEFAULT = "application/x-www-form-urlencoded"
"""What `curl -d` calls any body, unless told otherwise."""


def media_type(content_type: str | None) -> str:
    """Return the media type that a header Content-Type names, without its parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
RETRY_AFTER = "1"
"""Seconds until a request that found a part unavailable may be made again."""
