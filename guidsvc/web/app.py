"""The application: which path is served by which handler, to be read from top to bottom."""

from guidsvc.guard import Guard
from guidsvc.idempotency import Idempotency
from guidsvc.keyring import Keyring
from guidsvc.meters import RequestMeter
from guidsvc.service import GuidService
from guidsvc.temporary_space import TemporarySpace
from guidsvc.web.access import Log, log_function
from guidsvc.web.admission import Admission
from guidsvc.web.base import UnknownPath
from guidsvc.web.batch import BATCH_SECONDS, BatchHandler
from guidsvc.web.batch_places import BatchPlaces
from guidsvc.web.collection import GuidsHandler
from guidsvc.web.cors import Cors
from guidsvc.web.docs import DocsHandler, Document, OpenApiHandler
from guidsvc.web.draining import UnderWay
from guidsvc.web.forwarded import Forwarded
from guidsvc.web.guids import GuidHandler
from guidsvc.web.health import LiveHandler, Probes, ReadyHandler, RootHandler, VersionHandler
from guidsvc.web.host_names import HostNames
from guidsvc.web.keys import KeyHandler, KeysHandler, RotationHandler
from guidsvc.web.metrics import MetricsHandler
from guidsvc.web.pages import FileHandler
from guidsvc.web.problem_page import ProblemHandler
from guidsvc.web.query import bound_parsing
from guidsvc.web.records import ROUTE
from guidsvc.web.routes import Route, RoutedApplication
from guidsvc.web.watch import Watch


def make_app(  # noqa: PLR0913  # its collaborators
    service: GuidService,
    idempotency: Idempotency,
    probes: Probes,
    *,
    forwarded: Forwarded,
    log: Log | None,
    admission: Admission | None = None,
    watch: Watch | None = None,
    guard: Guard | None = None,
    keyring: Keyring | None = None,
    public_metrics: bool = False,
    cors: Cors | None = None,
    host_names: HostNames | None = None,
    space: TemporarySpace | None = None,
    batch_seconds: float = BATCH_SECONDS,
) -> RoutedApplication:
    """Put the application together.

    Without a guard everybody may do everything.

    Its setting `under_way` is the UnderWay of its requests, `admission` their Admission, `routes` its table.
    """
    bound_parsing()
    space = TemporarySpace() if space is None else space
    admission, watch = admission or Admission(), Watch() if watch is None else watch
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
    under_way = UnderWay()
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


def _count_admission(meter: RequestMeter, admission: Admission) -> None:
    meter.in_progress = lambda: admission.in_progress
    meter.waiting = lambda: admission.waiting
    meter.undone = lambda: {
        "full": admission.refused,
        "waited": admission.expired,
        "overdue": admission.overdue,
        "gone": admission.dropped,
    }
