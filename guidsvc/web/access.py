"""The access log: a line for each request that was answered."""

from collections.abc import Callable
from typing import Protocol

from tornado.web import RequestHandler

LOGGED_PATH = 200
"""Characters of a path that a line holds."""


class Log(Protocol):
    """Writes a line: what was asked, how it was answered, in how many milliseconds, its request id, and by whom."""

    def __call__(self, method: str, path: str, status: int, ms: float, request_id: str, remote: str, /) -> None:
        """Write it."""


def log_function(log: Log | None) -> Callable[[RequestHandler], None]:
    """Return what an application calls when a request of its has been answered."""
    if log is None:
        return lambda _: None

    def logged(handler: RequestHandler) -> None:
        request = handler.request
        path = request.path[:LOGGED_PATH]
        ms = round(1000 * request.request_time(), 2)
        log(
            str(request.method),
            path,
            handler.get_status(),
            ms,
            getattr(handler, "request_id", ""),
            str(request.remote_ip),
        )

    return logged
