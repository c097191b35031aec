"""The application: which path is served by which handler, to be read from top to bottom."""

import structlog
from tornado.web import Application, RequestHandler

from guidsvc.idempotency import Idempotency
from guidsvc.service import GuidService
from guidsvc.web.base import UnknownPath
from guidsvc.web.batch import BatchHandler
from guidsvc.web.collection import GuidsHandler
from guidsvc.web.docs import DocsHandler, Document, OpenApiHandler
from guidsvc.web.draining import UnderWay
from guidsvc.web.guids import GuidHandler
from guidsvc.web.health import LiveHandler, Probes, ReadyHandler, RootHandler, VersionHandler
from guidsvc.web.pages import FileHandler
from guidsvc.web.problem_page import ProblemHandler
from guidsvc.web.routes import Route

LOGGED_PATH = 200
"""Characters of a path that a log line holds."""

_log = structlog.get_logger("guidsvc.access")


def make_app(service: GuidService, idempotency: Idempotency, probes: Probes, *, access_log: bool) -> Application:
    """Put the application together. Its setting `under_way` is the UnderWay of its requests, `routes` its table."""
    routes = [
        Route("/guid", GuidsHandler, {"service": service, "idempotency": idempotency}),
        Route("/guid:batch", BatchHandler, {"service": service, "idempotency": idempotency}),
        Route("/guid/{guid}", GuidHandler, {"service": service}),
        Route("/livez", LiveHandler),
        Route("/readyz", ReadyHandler, {"probes": probes}),
        Route("/version", VersionHandler),
        Route("/openapi.json", OpenApiHandler),
        Route("/docs", DocsHandler),
        Route("/docs/{file}", FileHandler),
        Route("/problems/{code}", ProblemHandler),
        Route("/", RootHandler),
    ]
    return Application(
        [route.rule() for route in routes],
        default_handler_class=UnknownPath,
        log_function=_log_request if access_log else _log_nothing,
        under_way=UnderWay(),
        routes=routes,
        document=Document(routes),
    )


def _log_request(handler: RequestHandler) -> None:
    _log.info(
        "request",
        method=handler.request.method,
        path=handler.request.path[:LOGGED_PATH],
        status=handler.get_status(),
        ms=round(1000 * handler.request.request_time(), 2),
        request_id=getattr(handler, "request_id", None),
    )


def _log_nothing(handler: RequestHandler) -> None:
    """Log no requests."""
