"""Rendering of renewals that changed nothing, from parts that are rendered once a second and once per record."""

from http.client import OK
from time import time

from guidsvc.api.execution.guid_actions import GuidRequest, renewal_response
from guidsvc.api.execution.responses import serialize, split_at_request_id
from guidsvc.domain.leases.renewal import Renewal
from guidsvc.domain.record import Record
from guidsvc.http.response import Response
from guidsvc.services.guid_service import GuidService

_PART = "renewal"
"""Key of the rendered parts of a response in `Record.render_cache`."""
_ANY_RENEWAL = Response(OK, {"Cache-Control": "private, no-cache"}, b"")
"""A response that starts like every renewal."""


class RenewalRenderer:
    """Renders 200 responses to renewals that changed nothing, equal to those of `responses.serialize`."""

    def __init__(self, *, varies: bool) -> None:
        self._varies = varies
        self._start = b""  # up to the request id
        self._until = 0.0  # expiry of that, by `perf_counter`

    def render(  # all facts about a response
        self,
        service: GuidService,
        renewal: Renewal,
        request_id: str,
        now: float,
        extra_lines: str,
        *,
        secure: bool,
    ) -> bytes:
        """Return the response; `now` is the time by `perf_counter`, `extra_lines` are extra header lines."""
        if secure or renewal.max_expire is not None:
            response = renewal_response(service, _request(renewal.record), renewal)
            return serialize(response, request_id, extra_lines=extra_lines, secure=secure, varies=self._varies)
        if now >= self._until:
            self._until = now + 1 - time() % 1
            self._start, _ = split_at_request_id(_ANY_RENEWAL, varies=self._varies)
        parts = renewal.record.render_cache.get(_PART)
        if parts is None:
            parts = renewal.record.render_cache[_PART] = self._parts(service, renewal)
        head, before, after = parts
        granted = b"%d" % renewal.granted
        length = b"%d" % (len(before) + len(granted) + len(after))
        start = self._start + request_id.encode() + head
        if extra_lines:
            start += extra_lines.encode("latin-1")
        return start + b"Content-Length: " + length + b"\r\n\r\n" + before + granted + after

    def _parts(self, service: GuidService, renewal: Renewal) -> tuple[bytes, bytes, bytes]:
        """Return the head after the request id, and the body before and after the granted seconds."""
        response = renewal_response(service, _request(renewal.record), renewal)
        _, rest = split_at_request_id(response, varies=self._varies)
        head, _, body = rest.partition(b"\r\n\r\n")
        before, name, after = body.partition(b'"granted":"')
        return head[: head.index(b"Content-Length: ")], before + name, after[after.index(b'"') :]


def _request(record: Record) -> GuidRequest:
    return GuidRequest("POST", record.guid, {}, bytes)
