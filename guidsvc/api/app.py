"""The Tornado application and its route table."""

from collections.abc import Callable
from functools import partial

from guidsvc.api.base.fallback import UnknownPath
from guidsvc.api.console.console_handlers import ConsoleFileHandler, ConsoleHandler
from guidsvc.api.docs.llms_text import LlmsHandler
from guidsvc.api.docs.openapi_handlers import DocsHandler, Document, OpenApiHandler
from guidsvc.api.docs.problem_page import ProblemHandler, ProblemsHandler
from guidsvc.api.docs.static_pages import FileHandler
from guidsvc.api.execution.context import ApiContext
from guidsvc.api.execution.guid_actions import RENEWAL_ROUTE, ROUTE
from guidsvc.api.execution.pipeline import RequestPipeline
from guidsvc.api.parsing.query import bound_parsing
from guidsvc.api.request_log import log_function
from guidsvc.api.resources.batch.handler import BatchHandler
from guidsvc.api.resources.batch.slots import BatchSlots
from guidsvc.api.resources.events.handler import EventsHandler
from guidsvc.api.resources.guid import GuidHandler
from guidsvc.api.resources.guid_collection import GuidsHandler
from guidsvc.api.resources.health import LiveHandler, ReadyHandler, RootHandler, VersionHandler
from guidsvc.api.resources.keys import KeyHandler, KeysHandler, OwnKeyHandler, RotationHandler
from guidsvc.api.resources.metrics import METRICS, MetricsHandler
from guidsvc.api.resources.renewal import RenewalHandler
from guidsvc.api.resources.stats import StatsHandler
from guidsvc.api.routing import Route, RoutedApplication
from guidsvc.telemetry.state_metrics import RecordGauges


def make_app(pipeline: RequestPipeline) -> RoutedApplication:
    """Build the application, and connect the metrics to what they observe."""
    bound_parsing()
    _observe(pipeline.context)
    routes = make_routes(_public_paths(pipeline), has_console=pipeline.context.has_console)
    return RoutedApplication(
        pipeline, routes, default_handler_class=UnknownPath, log_function=log_function(pipeline, routes)
    )


def _public_paths(pipeline: RequestPipeline) -> Callable[[str], bool]:
    """Return a predicate of the paths at which no operation requires a key, whatever scope it declares."""
    if not pipeline.is_access_controlled:
        return _is_any_path
    return lambda path: path == METRICS and pipeline.context.has_public_metrics


def _is_any_path(path: str) -> bool:  # noqa: ARG001  # a predicate of paths
    return True


def make_routes(is_public: Callable[[str], bool] = _is_any_path, *, has_console: bool = True) -> list[Route]:
    """Return the route table, in the order of the OpenAPI document, which shows a lock where `is_public` is false."""
    routes: list[Route] = []
    document = Document(routes, is_public)  # rendered on first use, when the list is complete
    routes += [
        Route("/guid", GuidsHandler),
        Route("/guid:batch", BatchHandler, {"slots": BatchSlots()}),
        Route(ROUTE, GuidHandler),
        Route(RENEWAL_ROUTE, RenewalHandler),
        Route("/events", EventsHandler),
        Route("/keys", KeysHandler),
        Route("/keys/self", OwnKeyHandler),
        Route("/keys/{id}", KeyHandler),
        Route("/keys/{id}/rotation", RotationHandler),
        Route("/livez", LiveHandler),
        Route("/readyz", ReadyHandler),
        Route("/stats", StatsHandler),
        Route(METRICS, MetricsHandler),
        Route("/version", VersionHandler),
        Route("/openapi.json", OpenApiHandler, {"document": document}),
        Route("/llms.txt", LlmsHandler, {"routes": routes}),
        Route("/docs", DocsHandler),
        Route("/docs/{file}", FileHandler),
        Route("/problems", ProblemsHandler),
        Route("/problems/{code}", ProblemHandler),
        Route("/", RootHandler),
    ]
    if has_console:
        routes += [Route("/console", ConsoleHandler), Route("/console/{file}", ConsoleFileHandler)]
    return routes


def _observe(context: ApiContext) -> None:
    """Let the metrics read the requests in flight and the state of admission control."""
    requests, admission = context.monitor.meters.requests, context.admission
    if context.feed is not None:
        context.monitor.meters.streams = context.feed.streams.open_count
    context.monitor.meters.state.records = partial(_record_gauges, context)
    requests.in_flight = context.in_flight.__len__
    requests.in_progress = lambda: admission.in_progress
    requests.waiting = lambda: admission.waiting
    requests.undone = lambda: {
        "full": admission.refused,
        "waited": admission.expired,
        "overdue": admission.overdue,
        "gone": admission.dropped,
    }


def _record_gauges(context: ApiContext) -> RecordGauges | None:
    """Return the last counts of records for the metrics."""
    counts = context.statistics.latest
    if counts is None:
        return None
    return RecordGauges(counts.at / 1000, counts.live, counts.expired, counts.hours[0], counts.days[0])
