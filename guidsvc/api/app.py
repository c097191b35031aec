"""The Tornado application and its route table."""

from guidsvc.api.base.handler import UnknownPath
from guidsvc.api.docs.openapi_handlers import DocsHandler, Document, OpenApiHandler
from guidsvc.api.docs.problem_page import ProblemHandler
from guidsvc.api.docs.static_pages import FileHandler
from guidsvc.api.execution.guid_actions import ROUTE
from guidsvc.api.parsing.query import bound_parsing
from guidsvc.api.request_log import log_function
from guidsvc.api.resources.batch import BATCH_SECONDS, BatchHandler
from guidsvc.api.resources.batch_slots import BatchPlaces
from guidsvc.api.resources.guid import GuidHandler
from guidsvc.api.resources.guid_collection import GuidsHandler
from guidsvc.api.resources.health import LiveHandler, Probes, ReadyHandler, RootHandler, VersionHandler
from guidsvc.api.resources.keys import KeyHandler, KeysHandler, RotationHandler
from guidsvc.api.resources.metrics import MetricsHandler
from guidsvc.api.routing import Route, RoutedApplication
from guidsvc.auth.authenticator import Authenticator
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.host import HostNames
from guidsvc.http.headers.proxy import TrustedProxies
from guidsvc.monitoring.access_log import Log
from guidsvc.monitoring.process_monitor import ProcessMonitor
from guidsvc.runtime.admission import Admission
from guidsvc.runtime.in_flight import InFlightRequests
from guidsvc.runtime.temporary_space import TemporarySpace
from guidsvc.services.guid_service import GuidService
from guidsvc.services.idempotency import Idempotency
from guidsvc.services.key_service import KeyService
from guidsvc.telemetry.metrics import RequestMetrics


def make_app(  # noqa: PLR0913  # its collaborators
    service: GuidService,
    idempotency: Idempotency,
    probes: Probes,
    *,
    forwarded: TrustedProxies,
    log: Log | None,
    admission: Admission | None = None,
    watch: ProcessMonitor | None = None,
    guard: Authenticator | None = None,
    keyring: KeyService | None = None,
    public_metrics: bool = False,
    cors: Cors | None = None,
    host_names: HostNames | None = None,
    space: TemporarySpace | None = None,
    batch_seconds: float = BATCH_SECONDS,
) -> RoutedApplication:
    """Build the application.

    Without a `guard`, every caller may do everything. The setting `under_way` holds the InFlightRequests, `admission`
    the Admission, `routes` the route table.
    """
    bound_parsing()
    space = TemporarySpace() if space is None else space
    admission, watch = admission or Admission(), ProcessMonitor() if watch is None else watch
    routes = [
        Route("/guid", GuidsHandler, {"service": service, "idempotency": idempotency}),
        Route(
            "/guid:batch",
            BatchHandler,
            {
                "service": service,
                "idempotency": idempotency,
                "space": space,
                "places": BatchPlaces(),
                "seconds": batch_seconds,
            },
        ),
        Route(ROUTE, GuidHandler, {"service": service}),
        Route("/keys", KeysHandler, {"keyring": keyring}),
        Route("/keys/{id}", KeyHandler, {"keyring": keyring}),
        Route("/keys/{id}/rotation", RotationHandler, {"keyring": keyring}),
        Route("/livez", LiveHandler),
        Route("/readyz", ReadyHandler, {"probes": probes}),
        Route("/metrics", MetricsHandler, {"watch": watch, "public": public_metrics}),
        Route("/version", VersionHandler),
        Route("/openapi.json", OpenApiHandler),
        Route("/docs", DocsHandler),
        Route("/docs/{file}", FileHandler),
        Route("/problems/{code}", ProblemHandler),
        Route("/", RootHandler),
    ]
    under_way = InFlightRequests()
    watch.meters.requests.under_way = under_way.__len__
    _count_admission(watch.meters.requests, admission)
    return RoutedApplication(
        routes,
        default_handler_class=UnknownPath,
        log_function=log_function(log, watch.meters.requests, routes),
        under_way=under_way,
        admission=admission,
        guard=guard,
        forwarded=forwarded,
        cors=cors or Cors(),
        host_names=host_names or HostNames(),
        origin=watch.origin,
        reads=watch.meters.cache,
        document=Document(routes),
    )


def _count_admission(meter: RequestMetrics, admission: Admission) -> None:
    meter.in_progress = lambda: admission.in_progress
    meter.waiting = lambda: admission.waiting
    meter.undone = lambda: {
        "full": admission.refused,
        "waited": admission.expired,
        "overdue": admission.overdue,
        "gone": admission.dropped,
    }
