"""An ApiContext and a RequestPipeline, for tests that build the application themselves."""

from types import SimpleNamespace
from typing import Any, cast

from guidsvc.api.execution.context import ApiContext
from guidsvc.api.execution.pipeline import RequestPipeline
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.diagnostics import DiagnosticHeaders
from guidsvc.http.headers.host import HostNames
from guidsvc.http.headers.proxy import TrustedProxies
from guidsvc.monitoring.health import Health
from guidsvc.monitoring.process_monitor import ProcessMonitor
from guidsvc.runtime.admission import Admission
from guidsvc.runtime.fairness.decoding_turns import DecodingTurns
from guidsvc.runtime.in_flight import InFlightRequests
from guidsvc.runtime.temporary_space import TemporarySpace
from guidsvc.services.guid_service import GuidService
from guidsvc.services.idempotency import Idempotency
from guidsvc.services.key_service import KeyService
from guidsvc.services.statistics import RecordStatistics


def api_context(**members: Any) -> ApiContext:
    """Return a context with these members; the services that are not given must not be used."""
    defaults: dict[str, Any] = {
        "service": cast(GuidService, SimpleNamespace(decoding_turns=DecodingTurns())),
        "idempotency": cast(Idempotency, None),
        "keys": cast(KeyService, None),
        "feed": None,
        "statistics": cast(RecordStatistics, None),
        "health": Health(),
        "authenticator": None,
        "admission": Admission(),
        "in_flight": InFlightRequests(),
        "access_log": None,
        "monitor": ProcessMonitor(),
        "diagnostics": DiagnosticHeaders(),
        "tracer": None,
        "trusted_proxies": TrustedProxies(),
        "host_names": HostNames(),
        "public_url": "",
        "cors": Cors(),
        "temporary_space": TemporarySpace(),
        "max_age": 0,
        "quota": 0,
        "batch_seconds": 600.0,
        "has_console": True,
        "has_public_metrics": False,
    }
    return ApiContext(**(defaults | members))


def request_pipeline(**members: Any) -> RequestPipeline:
    """Return a pipeline over a context with these members."""
    return RequestPipeline(api_context(**members))
