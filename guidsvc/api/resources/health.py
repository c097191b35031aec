"""What an operator, an orchestrator or the curious ask: is it alive, is it ready, what is it?"""

import asyncio

import guidsvc
from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import schemas as answers
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.execution.context import Probe
from guidsvc.errors import ShuttingDown, StoreReadOnly, StoreReplaced, StoreUnavailable, Unavailable

PROBE_SECONDS = 2.0
"""A part that takes longer than this to answer counts as down."""

LINKS = {
    "guid": "/guid",
    "livez": "/livez",
    "readyz": "/readyz",
    "metrics": "/metrics",
    "version": "/version",
    "openapi": "/openapi.json",
    "docs": "/docs",
}

_UP, _DOWN, _READ_ONLY, _REPLACED = "up", "down", "read-only", "replaced"


class LiveHandler(Handler):
    """Alive: the event loop turns."""

    label = "health"

    @operation("getLivez", "Is it alive?", ResponseSpec(200, "It is.", answers.Live))
    async def get(self) -> None:
        """Answer, which is all there is to it."""
        self.reply(200, {"status": "live"})

    head = get


class ReadyHandler(Handler):
    """Ready: the store answers. Degraded: slower without the cache, or no writes for want of a disk that takes them."""

    label = "health"

    @operation("getReadyz", "Is it ready?", ResponseSpec(200, "It is, or is degraded.", answers.Ready))
    async def get(self) -> None:
        """Answer with the state of each part; a problem if the store is down, or the service about to end."""
        if self.pipeline.in_flight.draining:
            raise ShuttingDown("the service is about to end")
        probes = self.context.probes
        store, cache = await asyncio.gather(_state(probes.store), _state(probes.cache))
        if store == _DOWN:
            raise StoreUnavailable("the store does not answer the probe of /readyz")
        self.reply(200, {"status": "ready" if store == cache == _UP else "degraded", "store": store, "cache": cache})

    head = get


class VersionHandler(Handler):
    """Which guidsvc this is."""

    label = "about"

    @operation("getVersion", "Which version is it?", ResponseSpec(200, "Name and version.", answers.Version))
    async def get(self) -> None:
        """Answer with name and version."""
        self.reply(200, {"name": "guidsvc", "version": guidsvc.__version__})

    head = get


class RootHandler(Handler):
    """Where a visitor starts."""

    label = "about"

    @operation("getRoot", "What is there?", ResponseSpec(200, "Name, version and links.", answers.Root))
    async def get(self) -> None:
        """Answer with name, version and links."""
        self.reply(200, {"name": "guidsvc", "version": guidsvc.__version__, "links": LINKS})

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
