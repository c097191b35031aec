"""Health and version: `/livez`, `/readyz`, `/version` and `/`."""

from typing import Any

import guidsvc
from guidsvc.api.base.handler import Handler
from guidsvc.api.contract import schemas
from guidsvc.api.contract.headers import OF_DATA_PAGES
from guidsvc.api.contract.operation import ResponseSpec, operation
from guidsvc.api.execution.context import ApiContext
from guidsvc.api.html.index_page import index_page
from guidsvc.api.html.page import HTML
from guidsvc.errors import NotReady
from guidsvc.monitoring.health import DOWN, OFF, UP, Health

LINKS = {
    "console": "/console",
    "guid": "/guid",
    "events": "/events",
    "livez": "/livez",
    "readyz": "/readyz",
    "stats": "/stats",
    "metrics": "/metrics",
    "version": "/version",
    "openapi": "/openapi.json",
    "docs": "/docs",
    "llms": "/llms.txt",
    "problems": "/problems",
}
LIVE = {"status": "live"}
VERSION = {"name": "guidsvc", "version": guidsvc.__version__}


def root(context: ApiContext) -> dict[str, Any]:
    """Return the name and version of the service, and links to its paths."""
    is_there = {"console": context.has_console, "events": context.feed is not None}
    return {**VERSION, "links": {name: path for name, path in LINKS.items() if is_there.get(name, True)}}


def readiness(health: Health, workers: int | None) -> dict[str, object]:
    """Return the state of the service and of each part, and the number of workers if it is known.

    Raise NotReady if the store is down.
    """
    report = health.report()
    if report["store"] == DOWN:
        raise NotReady("The store does not answer.", report)
    are_up = report["store"] == UP and report["cache"] in {UP, OFF}
    is_whole = are_up and not {"clock", "damage"} & report.keys()
    status = "ready" if is_whole else "degraded"
    return {"ready": True, "status": status, **report, **({} if workers is None else {"workers": workers})}


class LiveHandler(Handler):
    """Liveness: the event loop runs."""

    label = "health"

    @operation("getLivez", "Check liveness", ResponseSpec(200, "The process is alive.", schemas.Live))
    async def get(self) -> None:
        """Return 200 if the process can respond."""
        self.respond(200, LIVE)

    head = get


class ReadyHandler(Handler):
    """Readiness: the store answers. Degraded: no cache, a store that rejects writes or is damaged, or a wrong clock."""

    label = "health"

    @operation(
        "getReadyz", "Check readiness", ResponseSpec(200, "The service is ready or degraded.", schemas.Readiness)
    )
    async def get(self) -> None:
        """Return the last known state of each part; a problem if the store is down or the service is shutting down."""
        if self.pipeline.in_flight.draining:
            raise NotReady("The service is shutting down.", self.context.health.report())
        self.respond(200, readiness(self.context.health, self.context.monitor.processes))

    head = get


class VersionHandler(Handler):
    """The version of the service."""

    label = "about"

    @operation("getVersion", "Read the version", ResponseSpec(200, "The name and version.", schemas.ServiceVersion))
    async def get(self) -> None:
        """Return the name and version of the service."""
        self.respond(200, VERSION)

    head = get


class RootHandler(Handler):
    """The entry point: links to the other paths."""

    label = "about"

    @operation(
        "getRoot",
        "List the entry points",
        ResponseSpec(
            200,
            "The name, version and links.",
            schemas.Root,
            other={HTML: "The same as a page, with a command to try."},
            headers=OF_DATA_PAGES,
        ),
    )
    async def get(self) -> None:
        """Return the name and version of the service, and links to its paths."""
        self.vary("Accept")
        entry = root(self.context)
        if self.prefers_page():
            has_access_control = self.pipeline.is_access_controlled
            self.respond_page(index_page(entry["links"], self.base_url, has_access_control=has_access_control))
            return
        self.respond(200, entry)

    head = get
