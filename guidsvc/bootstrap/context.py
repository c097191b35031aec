"""Open everything that the API needs, by the settings, and close it in reverse."""

import os
from collections.abc import AsyncIterator, MutableMapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path

from guidsvc.api.execution.context import ApiContext
from guidsvc.auth.audit_log import AuditLog, open_audit_log
from guidsvc.auth.authenticator import Authenticator
from guidsvc.bootstrap.auth import accepted_hosts, audit_destination, is_controlled, open_authenticator
from guidsvc.bootstrap.events import event_policy, open_events
from guidsvc.cache import Cache, is_off, is_private, open_cache
from guidsvc.config import Settings, split_list
from guidsvc.connection_urls import scheme_of
from guidsvc.domain import guid_generator
from guidsvc.domain.leases.limits import LifeLimits
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.errors import StartError
from guidsvc.http import public_url
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.diagnostics import DiagnosticHeaders
from guidsvc.http.headers.host import HostNames
from guidsvc.http.headers.proxy import TrustedProxies
from guidsvc.monitoring.health import UP, Health
from guidsvc.monitoring.logs import access_log, log_config, standard_streams
from guidsvc.monitoring.logs.access_log import AccessLog
from guidsvc.monitoring.logs.line_limit import reporting
from guidsvc.monitoring.process_monitor import ProcessMonitor
from guidsvc.process import file_descriptors
from guidsvc.process.worker_channel import METRICS_VARIABLE, WorkerChannel
from guidsvc.runtime.admission import OWNER_SHARE, Admission
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import Clock
from guidsvc.runtime.in_flight import InFlightRequests
from guidsvc.runtime.temporary_space import TemporarySpace
from guidsvc.services.guid_service import GuidService
from guidsvc.services.idempotency import Idempotency
from guidsvc.services.key_service import KeyService
from guidsvc.services.quota import Quota
from guidsvc.services.retention_quota import open_quotas
from guidsvc.services.statistics import RecordStatistics
from guidsvc.store import open_store
from guidsvc.store.contract import Database, RecordRepository
from guidsvc.store.instrumented import InstrumentedDatabase
from guidsvc.store.lease import LeaseClock
from guidsvc.telemetry.metrics import Metrics
from guidsvc.telemetry.tracing import Tracer

MAKERS = {"4": guid_generator.guid_v4, "7": guid_generator.guid_v7}
"""GUID generators, by the UUID version in the settings."""
_STORE_NAMES = {"sqlite": "SQLite", "mongodb": "MongoDB"}
"""Names of the kinds of store in the log."""


@asynccontextmanager
async def open_context(settings: Settings, *, clock: Clock, channel: WorkerChannel | None) -> AsyncIterator[ApiContext]:
    """Open the logs, the store, the cache and the authenticator, and yield them with the services on top."""
    metrics, log = Metrics(), _access_log(settings, channel)
    metrics.dropped_log_lines = standard_streams.dropped_lines
    health = _health(settings, metrics)
    async with (
        _open_monitor(settings, metrics, channel) as monitor,
        _open_audit_log(settings, clock, metrics) as audit_log,
        _open_database(settings, metrics, channel) as (database, lease_clock),
        _open_cache(settings, database, clock, metrics) as cache,
        _open_authenticator(settings, database, clock, audit_log, metrics) as authenticator,
        open_events(settings, database, clock=clock, gauges=metrics.store.events) as feed,
        open_quotas(database, lease_clock=lease_clock, clock=clock, quota=settings.quota) as quota,
        aclosing(RecordStatistics(database.records, clock)) as statistics,
        _reporting(log, audit_log),
        _open_tracer(settings) as tracer,
        health.kept_current(database.ping, cache.check),
    ):
        yield ApiContext(
            service=_guid_service(settings, cache, lease_clock, quota, clock, audit_log, metrics.renewals.outcomes),
            idempotency=_idempotency(settings, database, lease_clock, clock),
            keys=KeyService(database.api_keys, clock=clock, audit=None if audit_log is None else audit_log.key_changed),
            feed=feed,
            statistics=statistics,
            health=health,
            authenticator=authenticator,
            admission=_admission(settings),
            in_flight=InFlightRequests(),
            access_log=log,
            monitor=monitor,
            diagnostics=DiagnosticHeaders(settings.cache_status, settings.server_timing),
            tracer=tracer,
            trusted_proxies=TrustedProxies(split_list(settings.trusted_proxies)),
            host_names=HostNames(accepted_hosts(settings)),
            cors=Cors(split_list(settings.cors_origins)),
            public_url=public_url.parse(settings.public_url),
            temporary_space=_temporary_space(settings),
            max_age=settings.max_age,
            quota=settings.quota,
            batch_seconds=settings.batch_timeout,
            has_console=settings.console,
            has_public_metrics=settings.public_metrics,
        )


def _health(settings: Settings, metrics: Metrics) -> Health:
    """Return the health of the store and the cache, which notes their failures, and which the metrics read."""
    has_cache = not is_off(settings.cache_url, settings.cache_size)
    health = Health(
        lambda: metrics.store.clock_skew_seconds,
        lambda: metrics.store.damage,
        has_cache=has_cache,
        store_name=_STORE_NAMES[_store_kind(settings)],
    )
    metrics.store.on_failure, metrics.cache.on_failure = health.store.note_failure, health.cache.note_failure
    metrics.state.is_store_writable = lambda: health.store.state == UP
    return health


@asynccontextmanager
async def _open_database(
    settings: Settings, metrics: Metrics, channel: WorkerChannel | None
) -> AsyncIterator[tuple[Database, LeaseClock]]:
    """Open the store, exclusively if its cache lives in this process alone, and measure it; estimate its clock.

    If another worker has used the store, it must exist: with an empty one, workers would serve different records.
    """
    async with open_store(
        settings.store_url,
        exclusive=is_private(settings.cache_url),
        meter=metrics.store,
        events=event_policy(settings),
        create=channel is None or not channel.was_used(settings.store_fingerprint),
    ) as database:
        instrumented = InstrumentedDatabase(database, metrics.store)
        yield instrumented, LeaseClock(instrumented.fence)


def _open_cache(
    settings: Settings, database: Database, clock: Clock, metrics: Metrics
) -> AbstractAsyncContextManager[Cache]:
    return open_cache(settings.cache_url, database, clock=clock, size_bytes=settings.cache_size, meter=metrics.cache)


def _open_authenticator(
    settings: Settings, database: Database, clock: Clock, audit_log: AuditLog | None, metrics: Metrics
) -> AbstractAsyncContextManager[Authenticator | None]:
    on_denied = None if audit_log is None else audit_log.denied
    return open_authenticator(settings, database.api_keys, clock, on_denied, key_set=metrics.state.key_set)


def _guid_service(  # noqa: PLR0913, PLR0917  # one argument per collaborator
    settings: Settings,
    records: RecordRepository,
    lease_clock: LeaseClock,
    quota: Quota,
    clock: Clock,
    audit_log: AuditLog | None,
    renewals: MutableMapping[str, int],
) -> GuidService:
    return GuidService(
        records,
        lease_clock,
        clock=clock,
        generator=guid_generator.random_generator(MAKERS[settings.guid_version]),
        policy=RetentionPolicy(
            lifetime=settings.lifetime,
            retention=settings.retention,
            limits=LifeLimits(settings.max_ttl, settings.max_life),
        ),
        strict=settings.require_preconditions,
        quota=quota,
        audit=None if audit_log is None else audit_log.changed,
        renewals=renewals,
    )


def _idempotency(settings: Settings, database: Database, lease_clock: LeaseClock, clock: Clock) -> Idempotency:
    return Idempotency(
        database.receipts,
        lease_clock,
        clock=clock,
        seeded=partial(guid_generator.seeded, MAKERS[settings.guid_version]),
        owner_bytes=settings.receipt_bytes_per_owner,
        total_bytes=settings.receipt_bytes,
    )


def _admission(settings: Settings) -> Admission:
    return Admission(
        settings.max_in_progress,
        seconds=settings.queue_timeout,
        budget=settings.request_timeout,
        share=OWNER_SHARE if is_controlled(settings) else 1.0,
    )


def _temporary_space(settings: Settings) -> TemporarySpace:
    files = file_descriptors.temporary_files()
    return TemporarySpace(settings.temp_bytes_per_batch, settings.temp_bytes, files=files)


@asynccontextmanager
async def _open_audit_log(settings: Settings, clock: Clock, metrics: Metrics) -> AsyncIterator[AuditLog | None]:
    """Open the audit log if it is configured or access is controlled; else yield None."""
    destination = audit_destination(settings)
    with open_audit_log(destination, clock=clock, meter=metrics.audit, form=settings.log_format) as audit_log:
        yield audit_log


@asynccontextmanager
async def _open_tracer(settings: Settings) -> AsyncIterator[Tracer | None]:
    """Export the traces of requests if that is configured. The packages for it take long to import."""
    if settings.tracing == "off":
        yield None
        return
    from guidsvc.monitoring.request_tracer import open_tracer

    async with open_tracer(_store_kind(settings)) as tracer:
        yield tracer


@asynccontextmanager
async def _open_monitor(
    settings: Settings, metrics: Metrics, channel: WorkerChannel | None
) -> AsyncIterator[ProcessMonitor]:
    """Run the process monitor. Raise StartError if the shared metrics folder is not a directory."""
    monitor = ProcessMonitor(
        metrics,
        folder=_shared_folder(channel),
        about={
            "server": settings.server,
            "store": _store_kind(settings),
            "cache": "memory" if is_private(settings.cache_url) else "redis",
        },
    )
    try:
        async with running_in_background(monitor.run):
            yield monitor
    finally:
        monitor.close()


def _store_kind(settings: Settings) -> str:
    """Return the kind of store, as metrics and traces name it: `sqlite` or `mongodb`."""
    return scheme_of(settings.store_url).partition("+")[0]


def _shared_folder(channel: WorkerChannel | None) -> Path | None:
    """Return the shared metrics folder, or None. A worker serves without it until its supervisor has created it."""
    path = os.environ.get(METRICS_VARIABLE)
    if path is not None and channel is None and not Path(path).is_dir():
        raise StartError(f"{METRICS_VARIABLE}: not a directory: {path}; create it, or remove the variable")
    return None if path is None else Path(path)


def _reporting(log: AccessLog | None, audit_log: AuditLog | None) -> AbstractAsyncContextManager[None]:
    """Report, while the block runs, how many lines the limits of all logs have dropped."""
    access_limits = () if log is None else (log.limit,)
    audit_limits = () if audit_log is None else audit_log.limits
    return reporting(*log_config.event_limits(), *access_limits, *audit_limits)


def _access_log(settings: Settings, channel: WorkerChannel | None) -> AccessLog | None:
    worker = None if channel is None else channel.slot
    return (
        access_log.access_log(settings.log_level, settings.log_format, worker=worker) if settings.access_log else None
    )
