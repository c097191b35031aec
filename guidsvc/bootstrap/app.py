"""The composition root of one process: everything is opened, wired, served, drained, and closed here."""

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from socket import socket

import structlog

from guidsvc.api.app import make_app
from guidsvc.api.fast_path.dispatcher import FastPathDispatcher
from guidsvc.api.resources.health import Probes
from guidsvc.auth import audit_log as audit
from guidsvc.auth.audit_log import AuditLog
from guidsvc.bootstrap.auth import accepted_hosts, is_controlled, open_authenticator
from guidsvc.bootstrap.server import open_server
from guidsvc.cache import is_private, open_cache
from guidsvc.config import Settings, listed
from guidsvc.connection_urls import scheme_of
from guidsvc.domain import guid_generator
from guidsvc.domain.lifecycle import RetentionPolicy
from guidsvc.errors import StartError
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.diagnostics import DiagnosticHeaders
from guidsvc.http.headers.host import HostNames
from guidsvc.http.headers.proxy import TrustedProxies
from guidsvc.monitoring import access_log, standard_streams
from guidsvc.monitoring import log_config as logs
from guidsvc.monitoring.access_log import AccessLog
from guidsvc.monitoring.line_limit import reporting
from guidsvc.monitoring.process_monitor import ProcessMonitor
from guidsvc.process import file_descriptors as descriptors
from guidsvc.process.shutdown import drain
from guidsvc.process.worker_channel import METRICS_VARIABLE, WorkerChannel
from guidsvc.runtime.admission import OWNER_SHARE, Admission
from guidsvc.runtime.background import running_in_background
from guidsvc.runtime.clock import Clock, system_clock
from guidsvc.runtime.memory import collect_on_growth
from guidsvc.runtime.temporary_space import TemporarySpace
from guidsvc.server.sockets import inherit_sockets, open_listeners
from guidsvc.server.tls import Tls, open_tls
from guidsvc.services.guid_service import GuidService
from guidsvc.services.idempotency import Idempotency
from guidsvc.services.key_service import KeyService
from guidsvc.services.retention_quota import open_quotas
from guidsvc.store import open_store
from guidsvc.store.instrumented import InstrumentedStore
from guidsvc.telemetry.metrics import Metrics

MAKERS = {"4": guid_generator.guid_v4, "7": guid_generator.guid_v7}
"""GUID generators, by the UUID version in the settings."""

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def serving(
    settings: Settings, *, clock: Clock = system_clock, post: WorkerChannel | None = None, tls: Tls | None = None
) -> AsyncIterator[int]:
    """Open everything that the settings configure, serve, and yield the port. At the end, drain requests in flight.

    With `post`, a worker serves on the sockets inherited through this channel. `tls` is passed if already open.
    """
    tls = open_tls(settings.tls_cert, settings.tls_key) if tls is None else tls
    meters = Metrics()
    meters.dropped_log_lines = standard_streams.dropped_lines
    exclusive = is_private(settings.cache_url)
    async with (
        _watching(settings, meters, post) as watch,
        _auditing(settings, clock, meters) as audit_log,
        open_store(settings.store_url, clock=clock, exclusive=exclusive, meter=meters.store) as store,
        open_cache(
            settings.cache_url,
            InstrumentedStore(store, meters.store),
            clock=clock,
            size_bytes=settings.cache_size,
            meter=meters.cache,
        ) as cache,
        open_authenticator(settings, store, clock, None if audit_log is None else audit_log.denied) as guard,
        open_quotas(store, clock=clock, quota=settings.quota) as quota,
    ):
        terms = RetentionPolicy(lifetime=settings.lifetime, retention=settings.retention)
        make, strict = MAKERS[settings.guid_version], settings.require_preconditions
        service = GuidService(
            cache,
            clock=clock,
            draw=guid_generator.random_generator(make),
            terms=terms,
            strict=strict,
            quota=quota,
            audit=None if audit_log is None else audit_log.changed,
        )
        idempotency = Idempotency(
            store,
            clock=clock,
            seeded=partial(guid_generator.seeded, make),
            owner_bytes=settings.receipt_bytes_per_owner,
            total_bytes=settings.receipt_bytes,
        )
        probes = Probes(store=cache.ping, cache=cache.check)
        log = _access_log(settings, post)
        forwarded, cors = TrustedProxies(listed(settings.trusted_proxies)), Cors(listed(settings.cors_origins))
        host_names = HostNames(accepted_hosts(settings))
        admission = Admission(
            settings.max_in_progress,
            seconds=settings.queue_timeout,
            budget=settings.request_timeout,
            share=1.0 if guard is None else OWNER_SHARE,
        )
        app = make_app(
            service,
            idempotency,
            probes,
            forwarded=forwarded,
            log=log,
            admission=admission,
            watch=watch,
            guard=guard,
            keyring=KeyService(store, clock=clock, audit=None if audit_log is None else audit_log.key_changed),
            public_metrics=settings.public_metrics,
            cors=cors,
            host_names=host_names,
            space=TemporarySpace(
                settings.temp_bytes_per_batch, settings.temp_bytes, files=descriptors.temporary_files()
            ),
            batch_seconds=settings.batch_timeout,
        )
        short = FastPathDispatcher(
            service,
            app.settings["under_way"],
            forwarded,
            log,
            admission,
            watch,
            guard=guard,
            cors=cors,
            host_names=host_names,
        )
        with _listening(settings, post) as sockets:
            async with (
                _reporting(log, audit_log),
                running_in_background(partial(collect_on_growth, admission.is_idle)),
                open_server(app, sockets, settings, short, tls) as server,
            ):
                meters.connections = server.connections
                try:
                    yield port_of(sockets, settings)
                finally:
                    await drain(server, app.settings["under_way"], settings.grace)


@asynccontextmanager
async def _auditing(settings: Settings, clock: Clock, meters: Metrics) -> AsyncIterator[AuditLog | None]:
    """Open the audit log if it is configured or access is controlled; else yield None."""
    where = settings.audit_log or (audit.STDERR if is_controlled(settings) else audit.OFF)
    if where not in {audit.OFF, audit.STDERR} and scheme_of(settings.store_url) == "sqlite":
        _refuse_file_of_store(Path(where), settings.store_url)
    with audit.open_audit_log(where, clock=clock, meter=meters.audit) as opened:
        yield opened


def _refuse_file_of_store(path: Path, store_url: str) -> None:
    """Raise StartError if the audit log would be written into a file of the store."""
    from guidsvc.store.sqlite.files import is_file_of
    from guidsvc.store.sqlite.store import path_of_url

    if is_file_of(path_of_url(store_url), path):
        raise StartError(f"audit_log: {path} is a file of the store; name another")


@asynccontextmanager
async def _watching(settings: Settings, meters: Metrics, post: WorkerChannel | None) -> AsyncIterator[ProcessMonitor]:
    """Run the process monitor. Raise StartError if the shared metrics folder is not a directory."""
    watch = ProcessMonitor(
        meters,
        origin=DiagnosticHeaders(settings.cache_status, settings.server_timing),
        folder=_shared_folder(post),
        about={
            "server": settings.server,
            "store": scheme_of(settings.store_url).partition("+")[0],
            "cache": "memory" if is_private(settings.cache_url) else "redis",
        },
    )
    try:
        async with running_in_background(watch.run):
            yield watch
    finally:
        watch.close()


def _shared_folder(post: WorkerChannel | None) -> Path | None:
    """Return the shared metrics folder, or None. A worker serves without it until its supervisor has created it."""
    named = os.environ.get(METRICS_VARIABLE)
    if named is not None and post is None and not Path(named).is_dir():
        raise StartError(f"{METRICS_VARIABLE}: this is no folder: {named}")
    return None if named is None else Path(named)


@contextmanager
def _listening(settings: Settings, post: WorkerChannel | None) -> Iterator[list[socket]]:
    if post is not None:
        with inherit_sockets(post.listeners) as sockets:
            yield sockets
    else:
        with open_listeners(settings.host, settings.port, settings.unix_socket) as (sockets,):
            yield sockets


def port_of(sockets: Sequence[socket], settings: Settings) -> int:
    """Return the port that the sockets listen on, or 0 for a Unix socket."""
    return 0 if settings.unix_socket is not None else int(sockets[0].getsockname()[1])


def _reporting(log: AccessLog | None, audit_log: AuditLog | None) -> AbstractAsyncContextManager[None]:
    """Report, while the block runs, how many lines the limits of all logs have dropped."""
    access_limits = () if log is None else (log.limit,)
    audit_limits = () if audit_log is None else audit_log.limits
    return reporting(*logs.event_limits(), *access_limits, *audit_limits)


def _access_log(settings: Settings, post: WorkerChannel | None) -> AccessLog | None:
    worker = None if post is None else post.slot
    return (
        access_log.access_log(settings.log_level, settings.log_format, worker=worker) if settings.access_log else None
    )
