"""Access log and metrics of each answered request."""

from collections.abc import Callable, Mapping

from tornado.web import RequestHandler

from guidsvc.api.base.handler import Handler, ServerWideOptions
from guidsvc.api.execution.context import ApiContext
from guidsvc.api.routing import Route
from guidsvc.http.constants import METHODS

LOGGED_PATH = 200
"""Maximum characters of a path in a log line."""
OTHER = "other"
"""The metrics label of unknown paths and of methods that are not served."""


def labelled(method: str) -> str:
    """Return the metrics label of a method. Clients can invent methods; the number of labels must stay bounded."""
    return method if method in METHODS else OTHER


def log_function(context: ApiContext, routes: list[Route]) -> Callable[[RequestHandler], None]:
    """Return the function that Tornado calls after each request."""
    log, meter = context.access_log, context.monitor.meters.requests
    paths: Mapping[type[RequestHandler], str] = {
        **{route.handler: route.path for route in routes},
        ServerWideOptions: "*",
    }

    def answered(handler: RequestHandler) -> None:
        if isinstance(handler, Handler) and handler.is_cut_off:
            return  # no response was sent
        request, status, seconds = handler.request, handler.get_status(), max(0.0, handler.request.request_time())
        method = str(request.method)
        meter.done(paths.get(type(handler), OTHER), labelled(method), status, seconds)
        if log is not None:
            source = handler.source if isinstance(handler, Handler) else None
            name = getattr(handler, "request_id", "")
            path, ms = request.path[:LOGGED_PATH], round(1000 * seconds, 2)
            log(method, path, status, ms, name, str(request.remote_ip), source)

    return answered
