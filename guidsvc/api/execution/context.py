"""The context of the API: the collaborators of all requests of a process, from the composition root."""

from dataclasses import dataclass

from guidsvc.auth.authenticator import Authenticator
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.diagnostics import DiagnosticHeaders
from guidsvc.http.headers.host import HostNames
from guidsvc.http.headers.proxy import TrustedProxies
from guidsvc.monitoring.health import Health
from guidsvc.monitoring.logs.access_log import Log
from guidsvc.monitoring.process_monitor import ProcessMonitor
from guidsvc.runtime.admission import Admission
from guidsvc.runtime.in_flight import InFlightRequests
from guidsvc.runtime.temporary_space import TemporarySpace
from guidsvc.services.events.feed import EventFeed
from guidsvc.services.guid_service import GuidService
from guidsvc.services.idempotency import Idempotency
from guidsvc.services.key_service import KeyService
from guidsvc.services.statistics import RecordStatistics
from guidsvc.telemetry.tracing import Tracer


@dataclass(frozen=True, kw_only=True)
class ApiContext:
    """The services, policies and instruments of the API."""

    service: GuidService
    idempotency: Idempotency
    keys: KeyService
    feed: EventFeed | None
    """None if there is no event log."""
    statistics: RecordStatistics
    health: Health
    authenticator: Authenticator | None
    """None if access control is off: every caller may do everything."""
    admission: Admission
    in_flight: InFlightRequests
    access_log: Log | None
    monitor: ProcessMonitor
    diagnostics: DiagnosticHeaders
    tracer: Tracer | None
    """None if no spans are exported."""
    trusted_proxies: TrustedProxies
    host_names: HostNames
    public_url: str
    """The address under which clients reach the service, or an empty string if it is not known."""
    cors: Cors
    temporary_space: TemporarySpace
    max_age: int
    """Seconds for which clients may cache a record; with 0, they must revalidate it each time."""
    quota: int
    """Maximum number of live GUIDs of an owner; 0 means no limit."""
    batch_seconds: float
    """Maximum duration of a batch of lines."""
    has_console: bool
    """Whether the console is served."""
    has_public_metrics: bool
    """Whether `/metrics` is public, even where access is controlled."""
