"""The application: which path is served by which handler, to be read from top to bottom."""

from tornado.web import Application

from guidsvc.idempotency import Idempotency
from guidsvc.service import GuidService
from guidsvc.web.access import Log, log_function
from guidsvc.web.admission import Admission
from guidsvc.web.base import UnknownPath
from guidsvc.web.batch import BatchHandler
from guidsvc.web.collection import GuidsHandler
from guidsvc.web.docs import DocsHandler, Document, OpenApiHandler
from guidsvc.web.draining import UnderWay
from guidsvc.web.forwarded import Forwarded
from guidsvc.web.guids import GuidHandler
from guidsvc.web.health import LiveHandler, Probes, ReadyHandler, RootHandler, VersionHandler
from guidsvc.web.pages import FileHandler
from guidsvc.web.problem_page import ProblemHandler
from guidsvc.web.routes import Route, RoutedApplication


def make_app(
    service: GuidService, idempotency: Idempotency, probes: Probes, *, forwarded: Forwarded, log: Log | None,
    admission: Admission | None = None,
) -> Application:  # fmt: skip
    """Put the application together.

    Its setting `under_way` is the UnderWay of its requests, `admission` their Admission, `routes` its table.
    """
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
    return RoutedApplication(
        routes,
        default_handler_class=UnknownPath,
        log_function=log_function(log),
        under_way=UnderWay(),
        admission=admission or Admission(),
        forwarded=forwarded,
        document=Document(routes),
    )
