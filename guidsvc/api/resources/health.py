"""Health and version: `/livez`, `/readyz`, `/version` and `/`."""

import asyncio

import guidsvc
from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import schemas
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.execution.context import Probe
from guidsvc.errors import ShuttingDown, StoreReadOnly, StoreReplaced, StoreUnavailable, Unavailable

PROBE_SECONDS = 2.0
"""Timeout of a probe, in seconds. A component that does not respond in time is down."""

LINKS = {
    "guid": "/guid",
    "livez": "/livez",
    "readyz": "/readyz",
    "metrics": "/metrics",
    "version": "/version",
    "openapi": "/openapi.json",
    "docs": "/docs",
    "problems": "/problems",
}

_UP, _DOWN, _READ_ONLY, _REPLACED = "up", "down", "read-only", "replaced"


class LiveHandler(Handler):
    """Liveness: the event loop runs."""

    label = "health"

    @operation("getLivez", "Check liveness", ResponseSpec(200, "The process is alive.", schemas.Live))
    async def get(self) -> None:
        """Return 200 if the process can respond."""
        self.respond(200, {"status": "live"})

    head = get


class ReadyHandler(Handler):
    """Readiness: the store responds. Degraded: reads are slower without the cache, or the store rejects writes."""

    label = "health"

    @operation("getReadyz", "Check readiness", ResponseSpec(200, "The service is ready or degraded.", schemas.Ready))
    async def get(self) -> None:
        """Return the state of each component; a problem if the store is down or the service is shutting down."""
        if self.pipeline.in_flight.draining:
            raise ShuttingDown("the service is shutting down")
        probes = self.context.probes
        store, cache = await asyncio.gather(_state(probes.store), _state(probes.cache))
        if store == _DOWN:
            raise StoreUnavailable("the store did not respond to the probe of /readyz")
        self.respond(200, {"status": "ready" if store == cache == _UP else "degraded", "store": store, "cache": cache})

    head = get


class VersionHandler(Handler):
    """The version of the service."""

    label = "about"

    @operation("getVersion", "Read the version", ResponseSpec(200, "The name and version.", schemas.Version))
    async def get(self) -> None:
        """Return the name and version of the service."""
        self.respond(200, {"name": "guidsvc", "version": guidsvc.__version__})

    head = get


class RootHandler(Handler):
    """The entry point: links to the other paths."""

    label = "about"

    @operation("getRoot", "List the entry points", ResponseSpec(200, "The name, version and links.", schemas.Root))
    async def get(self) -> None:
        """Return the name and version of the service, and links to its paths."""
        self.respond(200, {"name": "guidsvc", "version": guidsvc.__version__, "links": LINKS})

    head = get


async def _state(probe: Probe) -> str:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await probe()
    except StoreReplaced:
        return _REPLACED
    except StoreReadOnly:
        return _READ_ONLY
    except (Unavailable, TimeoutError):
        return _DOWN
    return _UP
