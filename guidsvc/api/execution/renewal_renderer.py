"""Rendering of renewals that changed nothing, from parts that are rendered once a second and once per record."""

from http.client import OK
from time import time

from guidsvc.api.execution.guid_actions import GuidRequest, renewal_response
from guidsvc.api.execution.responses import insert_header_lines, serialize, split_at_request_id
from guidsvc.domain.leases.limits import UNLIMITED
from guidsvc.domain.leases.renewal import Renewal, renew
from guidsvc.domain.record import Record
from guidsvc.http.response import Response
from guidsvc.services.leases.renewer import RenewalTerms

_PART = "renewal"
"""Key of the rendered parts of a response in `Record.render_cache`."""
_ANY_RENEWAL = Response(OK, {"Cache-Control": "private, no-cache"}, b"")
"""A response that starts like every renewal."""


class RenewalRenderer:
    """Renders 200 responses to readers' renewals that changed nothing, equal to those of `responses.serialize`."""

    def __init__(self, *, varies: bool) -> None:
        self._varies = varies
        self._start = b""  # up to the request id
        self._until = 0.0  # expiry of that, by `continuous_clock`

    def render(  # all facts about a response
        self,
        terms: RenewalTerms,
        found: tuple[Record, int],
        request_id: str,
        now: float,
        extra_lines: bytes,
        *,
        secure: bool,
    ) -> bytes:
        """Return the response; `found` is the record and its remaining milliseconds.

        `now` is the time by `continuous_clock`, `extra_lines` are extra header lines.
        """
        record, left_ms = found
        if terms.policy.limits != UNLIMITED:
            renewal = renew(record, terms.asked, record.expire * 1000 - left_ms, terms.policy)
            response = renewal_response(_request(record), renewal, is_shown=True)
            return serialize(response, request_id, extra_lines=extra_lines, secure=secure, varies=self._varies)
        if now >= self._until:
            self._until = now + 1 - time() % 1
            self._start, _ = split_at_request_id(_ANY_RENEWAL, varies=self._varies)
        granted = left_ms // 1000
        parts = record.render_cache.get(_PART)
        if parts is None or not parts[0] <= granted < parts[1]:
            parts = record.render_cache[_PART] = self._parts(record, granted)
        _, _, head, end = parts
        if extra_lines or secure:
            head = insert_header_lines(head, extra_lines, secure=secure)
        return self._start + request_id.encode() + head + b"%d" % granted + end

    def _parts(self, record: Record, granted: int) -> tuple[int, int, bytes, bytes]:
        """Return the bytes between the request id and the granted seconds, and the bytes after them.

        The length is that of a body with as many digits, so the first numbers are the least seconds that have so many
        digits, and the least that have more.
        """
        renewal = Renewal(record, renewed=False, granted=granted, capped=False, max_expire=None)
        response = renewal_response(_request(record), renewal, is_shown=True)
        _, rest = split_at_request_id(response, varies=self._varies)
        head, name, after = rest.partition(b'"granted":"')
        digits = len(str(granted))
        return 10 ** (digits - 1) if granted else 0, 10**digits, head + name, after[digits:]


def _request(record: Record) -> GuidRequest:
    return GuidRequest("POST", record.guid, {}, bytes)
