"""Load shedding: reject excess requests with 503 as cheaply as possible, because the service is overloaded then.

Rejections within one second differ only in their request id, so they are rendered once a second.
"""

import time
from collections.abc import Callable, Mapping

from guidsvc.api.contract import problems
from guidsvc.api.execution import responses
from guidsvc.api.execution.guid_actions import RENEWAL_ROUTE, ROUTE
from guidsvc.api.execution.pipeline import LOGGED_PATH, RequestPipeline
from guidsvc.api.fast_path.eligibility import request_id_for
from guidsvc.errors import Overloaded
from guidsvc.http.dates import http_date
from guidsvc.http.headers.request_id import new_request_id
from guidsvc.telemetry.tracing import OTHER

_ID = "~" * len(new_request_id())
"""Placeholder for the request id; occurs nowhere else in a rejection."""
_STATUS = problems.kind_of(Overloaded).status


class LoadShedder:
    """Rejects requests for lack of an admission slot; logs and counts them."""

    def __init__(self, pipeline: RequestPipeline) -> None:
        self._pipeline = pipeline
        self._varies = pipeline.context.cors.any
        self._base = pipeline.context.public_url
        self._date = ""  # of the rendered rejections
        self._parts: dict[bool, list[bytes]] = {}  # keyed by whether TLS is used

    def reject(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        remote: str,
        *,
        secure: bool = False,
        last: bool = False,
    ) -> bytes:
        """Return the rejection; `secure` is whether the request used TLS, `last` whether its connection closes."""
        start, error = time.perf_counter(), self._pipeline.admission.refuse()
        id_, tracer = request_id_for(headers), self._pipeline.tracer
        trace = None if tracer is None else tracer.begin(id_, remote, headers, secure=secure)
        response_bytes = self._render(error, method, id_, secure=secure, last=last)
        seconds = time.perf_counter() - start
        logged = path[:LOGGED_PATH]
        failure = self._pipeline.describe(error, None)
        self._pipeline.record_completion(
            _route(path), method, logged, _STATUS, seconds, id_, remote, None, failure, trace
        )
        return response_bytes

    def _render(self, error: Overloaded, method: str, id_: str, *, secure: bool, last: bool) -> bytes:
        if last or method == "HEAD" or len(id_) != len(_ID):
            return responses.serialize_problem(
                error, id_, base=self._base, head=method == "HEAD", last=last, secure=secure, varies=self._varies
            )
        if self._date != http_date():
            self._date = http_date()
            self._parts = {
                is_secure: responses.serialize_problem(
                    error, _ID, base=self._base, secure=is_secure, varies=self._varies
                ).split(_ID.encode())
                for is_secure in (False, True)
            }
        return id_.encode().join(self._parts[secure])


def _route(path: str) -> str:
    """Return the route of a path, among the routes subject to admission."""
    if path.startswith("/guid/") and path.endswith("/renewal") and path.count("/") == 3:  # noqa: PLR2004
        return RENEWAL_ROUTE
    if path.startswith("/guid/"):
        return ROUTE if path.count("/") == 2 else OTHER  # noqa: PLR2004
    return path if path in {"/guid", "/guid:batch"} else OTHER


class ShedRequest:
    """A request to be rejected once its body has arrived."""

    __slots__ = ("_headers", "_method", "_path", "_remote", "_secure", "_shedder", "last")

    def __init__(
        self, shedder: LoadShedder, method: str, path: str, headers: Mapping[str, str], remote: str, *, secure: bool
    ) -> None:
        self._shedder = shedder
        self._method = method
        self._path = path
        self._headers = headers
        self._remote = remote
        self._secure = secure
        self.last = False
        """Whether the connection closes after the rejection."""

    def reject_if_overloaded(self) -> bytes:
        """Return the rejection."""
        return self._shedder.reject(
            self._method, self._path, self._headers, self._remote, secure=self._secure, last=self.last
        )

    def answer_soon(self, callback: Callable[[bytes | None], object]) -> bool:  # noqa: ARG002  # as every request has it
        """Return False: the rejection is known."""
        return False

    async def respond(self, body: bytes) -> bytes:  # noqa: ARG002  # as every request has it
        """Return the rejection."""
        return self.reject_if_overloaded()

    def abandon(self) -> None:
        """Do nothing: the request holds no resources."""
