"""Load shedding: reject excess requests with 503 as cheaply as possible, since they come under overload.

Rejections within one second differ only in their request id, so they are rendered once a second.
"""

import time

from guidsvc.api.contract import problems
from guidsvc.api.execution import responses as replies
from guidsvc.api.execution.guid_actions import ROUTE
from guidsvc.api.execution.pipeline import LOGGED_PATH, OTHER, RequestPipeline
from guidsvc.errors import Overloaded
from guidsvc.http.dates import http_date
from guidsvc.http.headers.request_id import draw, request_id

_ID = "~" * len(draw())
"""Placeholder for the request id; occurs nowhere else in a rejection."""
_STATUS = problems.kind_of(Overloaded).status


class LoadShedder:
    """Rejects requests for lack of an admission slot; logs and counts them."""

    def __init__(self, pipeline: RequestPipeline) -> None:
        self._pipeline = pipeline
        self._varies = pipeline.context.cors.any
        self._date = ""  # of the rendered rejections
        self._parts: dict[bool, list[bytes]] = {}  # keyed by whether TLS is used

    def answer(self, method: str, path: str, given: str | None, remote: str, *, secure: bool = False) -> bytes:
        """Return the rejection; `given` is the client's request id, `secure` whether the request used TLS."""
        begun, error = time.perf_counter(), self._pipeline.admission.refuse()
        name = draw() if given is None else request_id(given)
        reply = self._reply(error, method, name, secure=secure)
        seconds = time.perf_counter() - begun
        logged = path[:LOGGED_PATH]
        self._pipeline.record_completion(_route(path), method, logged, _STATUS, seconds, name, remote, None)
        return reply

    def _reply(self, error: Overloaded, method: str, name: str, *, secure: bool) -> bytes:
        if method == "HEAD" or len(name) != len(_ID):
            return replies.serialize_problem(error, name, head=method == "HEAD", secure=secure, varies=self._varies)
        if self._date != http_date():
            self._date = http_date()
            self._parts = {
                kind: replies.serialize_problem(error, _ID, secure=kind, varies=self._varies).split(_ID.encode())
                for kind in (False, True)
            }
        return name.encode().join(self._parts[secure])


def _route(path: str) -> str:
    """Return the route of a path, among the routes subject to admission."""
    if path.startswith("/guid/"):
        return ROUTE if path.count("/") == 2 else OTHER  # noqa: PLR2004
    return path if path in {"/guid", "/guid:batch"} else OTHER


class ShedRequest:
    """A request to be rejected once its body has arrived."""

    __slots__ = ("_given", "_method", "_path", "_refusals", "_remote", "_secure", "last")

    def __init__(
        self, refusals: LoadShedder, method: str, path: str, given: str | None, remote: str, *, secure: bool
    ) -> None:
        self._refusals = refusals
        self._method = method
        self._path = path
        self._given = given
        self._remote = remote
        self._secure = secure
        self.last = False
        """The connection stays open."""

    def reject_if_overloaded(self) -> bytes:
        """Return the rejection."""
        return self._refusals.answer(self._method, self._path, self._given, self._remote, secure=self._secure)

    async def respond(self, sent: bytes) -> bytes:  # noqa: ARG002  # as every request has it
        """Return the rejection."""
        return self.reject_if_overloaded()

    def abandon(self) -> None:
        """Do nothing: the request holds no resources."""
