"""Usual mistakes in requests, and the responses of the service."""

import json
from typing import NamedTuple

from tests.support.factories import GUID

AT = f"/guid/{GUID}"
JSON = {"Content-Type": "application/json"}
PATHS = "GET / lists the paths."


class Mistake(NamedTuple):
    """A request with a mistake, and the expected response."""

    method: str
    path: str
    body: bytes | None
    headers: dict[str, str]
    status: int
    code: str
    detail: str


def put(body: str | bytes, detail: str) -> Mistake:
    """Return the mistake of a PUT with this body."""
    encoded = body.encode() if isinstance(body, str) else body
    return Mistake("PUT", AT, encoded, JSON, 400, "invalid-request", detail)


def patch(body: str, detail: str) -> Mistake:
    """Return the mistake of a PATCH with this body."""
    return Mistake("PATCH", AT, body.encode(), JSON, 400, "invalid-request", detail)


def expire(value: object, detail: str) -> Mistake:
    """Return the mistake of a PUT with this expiry."""
    return put(json.dumps({"user": "a", "expire": value}), f"`expire` {detail}")


def get(path: str, detail: str, status: int = 400, code: str = "invalid-request") -> Mistake:
    """Return the mistake of a GET of this path."""
    return Mistake("GET", path, None, {}, status, code, detail)


def guid(text: str, detail: str) -> Mistake:
    """Return the mistake of a GUID in this notation."""
    return get(f"/guid/{text}", detail, 400, "invalid-guid")


def path(text: str, near: str | None) -> Mistake:
    """Return the mistake of a path that is near another."""
    question = "" if near is None else f"Did you mean {near}? "
    return get(text, f"Nothing is served at this path. {question}{PATHS}", 404, "not-found")


def header(name: str, value: str, detail: str) -> Mistake:
    """Return the mistake of a header of a POST."""
    headers = JSON | {name: value}
    return Mistake("POST", "/guid", b'{"user": "a"}', headers, 400, "invalid-request", f"The header `{name}` {detail}")


def media_type(headers: dict[str, str], detail: str) -> Mistake:
    """Return the mistake of the media type of a POST."""
    advice = f"send Content-Type: application/json{' instead' if headers else ''}"
    full_detail = (
        f"POST requires a body of application/json in UTF-8, but the Content-Type {detail}; {advice} "
        "(curl: -H 'Content-Type: application/json')."
    )
    return Mistake("POST", "/guid", b'{"user": "a"}', headers, 415, "unsupported-media-type", full_detail)


def method(name: str, at: str, allowed: str, hint: str = "") -> Mistake:
    """Return the mistake of a method that a path does not serve."""
    detail = f"{name} is not supported here; use {allowed}.{hint}"
    return Mistake(name, at, b"", JSON, 405, "method-not-allowed", detail)


def unknown(name: str, at: str, detail: str) -> Mistake:
    """Return the mistake of a method that no path serves."""
    return Mistake(name, at, b"{}", JSON, 501, "not-implemented", detail)


def renewal(body: str, detail: str) -> Mistake:
    """Return the mistake of a renewal with this body."""
    return Mistake("POST", f"{AT}/renewal", body.encode(), JSON, 400, "invalid-request", detail)


def batch(body: str, detail: str) -> Mistake:
    """Return the mistake of a batch in a document."""
    return Mistake("POST", "/guid:batch", body.encode(), JSON, 400, "invalid-request", detail)
