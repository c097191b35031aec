"""Access log and metrics of each request that a handler answered."""

from collections.abc import Callable, Mapping

from tornado.web import RequestHandler

from guidsvc.api.base.fallback import ServerWideOptions
from guidsvc.api.base.handler import Handler
from guidsvc.api.execution.pipeline import LOGGED_PATH, RequestPipeline
from guidsvc.api.routing import Route
from guidsvc.http.constants import CLIENT_CLOSED_REQUEST, METHODS
from guidsvc.monitoring.logs.access_log import loggable_method
from guidsvc.telemetry.tracing import OTHER


def log_function(pipeline: RequestPipeline, routes: list[Route]) -> Callable[[RequestHandler], None]:
    """Return the function that Tornado calls after each request."""
    paths: Mapping[type[RequestHandler], str] = {
        **{route.handler: route.path for route in routes},
        ServerWideOptions: "*",
    }

    def log_request(handler: RequestHandler) -> None:
        source = handler.source if isinstance(handler, Handler) else None
        if isinstance(handler, Handler) and handler.is_aborted:
            return  # it has a line already
        is_abandoned = isinstance(handler, Handler) and handler.is_abandoned
        request, seconds = handler.request, max(0.0, handler.request.request_time())
        method = str(request.method)
        pipeline.record_completion(
            paths.get(type(handler), OTHER),
            method if method in METHODS else loggable_method(method),
            request.path[:LOGGED_PATH],
            CLIENT_CLOSED_REQUEST if is_abandoned else int(handler.get_status()),
            seconds,
            getattr(handler, "request_id", ""),
            str(request.remote_ip),
            source,
            handler.failure if isinstance(handler, Handler) else None,
            handler.trace if isinstance(handler, Handler) else None,
        )

    return log_request
