"""Rendering of plain reads of a record, from parts that are rendered once a second and once per record."""

from http.client import OK
from time import time

from guidsvc.api.execution.guid_actions import GuidRequest, max_age_control, record_response
from guidsvc.api.execution.responses import insert_header_lines, split_at_request_id
from guidsvc.domain.record import Record
from guidsvc.http.response import Response
from guidsvc.services.guid_service import GuidService

_PART = "read"
"""Key of the rendered end of a response in `Record.render_cache`."""
_ANY_READ = Response(OK, {"Cache-Control": "private, no-cache"}, b"")
"""A response that starts like every read."""


class ReadRenderer:
    """Renders 200 responses to plain reads, equal to those of `responses.serialize`."""

    def __init__(self, service: GuidService, *, varies: bool) -> None:
        self._service = service
        self._varies = varies
        self._start = b""  # up to the request id
        self._until = 0.0  # expiry of that, by `continuous_clock`

    def render(
        self,
        record: Record,
        request_id: str,
        now: float,
        extra_lines: bytes = b"",
        *,
        secure: bool,
        valid_for: int = 0,  # noqa: ARG002  # it matters only if clients cache
    ) -> bytes:
        """Return the response to a GET that demands `valid_for` seconds, if not 0.

        `now` is the time by `continuous_clock`, `extra_lines` are header lines.
        """
        if now >= self._until:
            self._until = now + 1 - time() % 1
            self._start, _ = split_at_request_id(_ANY_READ, varies=self._varies)
        rest = record.render_cache.get(_PART)
        if rest is None:
            request = GuidRequest("GET", record.guid, {}, bytes)
            _, rest = split_at_request_id(record_response(self._service, request, OK, record), varies=self._varies)
            record.render_cache[_PART] = rest
        if extra_lines or secure:
            rest = insert_header_lines(rest, extra_lines, secure=secure)
        return self._start + request_id.encode() + rest


class CacheableReadRenderer(ReadRenderer):
    """A renderer for clients that may cache a record for `max_age` seconds, if the read would succeed until then."""

    def __init__(self, service: GuidService, *, varies: bool, max_age: int) -> None:
        super().__init__(service, varies=varies)
        self._max_age = max_age
        self._cacheable = Response(OK, {"Cache-Control": max_age_control(max_age)}, b"")
        self._cacheable_start = b""

    def render(
        self,
        record: Record,
        request_id: str,
        now: float,
        extra_lines: bytes = b"",
        *,
        secure: bool,
        valid_for: int = 0,
    ) -> bytes:
        if now >= self._until:
            self._until = now + 1 - time() % 1
            self._start, _ = split_at_request_id(_ANY_READ, varies=self._varies)
            self._cacheable_start, _ = split_at_request_id(self._cacheable, varies=self._varies)
        rest = record.render_cache.get(_PART)
        if rest is None:
            request = GuidRequest("GET", record.guid, {}, bytes, max_age=self._max_age)
            _, rest = split_at_request_id(record_response(self._service, request, OK, record), varies=self._varies)
            record.render_cache[_PART] = rest
        if extra_lines or secure:
            rest = insert_header_lines(rest, extra_lines, secure=secure)
        is_cacheable = self._service.lives_for(record, self._max_age + valid_for)
        return (self._cacheable_start if is_cacheable else self._start) + request_id.encode() + rest


def read_renderer(service: GuidService, *, varies: bool, max_age: int) -> ReadRenderer:
    """Return the renderer of plain reads; `max_age` is how long clients may cache a record, in seconds."""
    if max_age:
        return CacheableReadRenderer(service, varies=varies, max_age=max_age)
    return ReadRenderer(service, varies=varies)
