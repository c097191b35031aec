"""Schemas of the state of the service, and of its documents."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from guidsvc.api.contract.schemas.fields import Digits, Schema, closed, optional


class Live(Schema):
    """The process is alive."""

    model_config = closed({"status": "live"})

    status: Literal["live"]


AGE_OF_STATES = "The age of the states, in milliseconds: a background task checks each part every second."


CLOCK = "If the clocks of the host and of MongoDB differ by more than 0.5 s: by how much, as in `1.2 s ahead`."


DAMAGE = "If the stored data is damaged: what is wrong. GUIDs that exist may be absent."


class Readiness(Schema):
    """The service is ready.

    It is `degraded` without its cache, if the store rejects writes or is damaged, or with a wrong clock.
    """

    model_config = closed({"ready": True, "status": "ready", "store": "up", "cache": "up", "age_ms": 250, "workers": 4})

    ready: Literal[True]
    status: Literal["ready", "degraded"]
    store: Literal["up", "read-only", "replaced"]
    cache: Literal["up", "down", "off"]
    clock: str = optional(CLOCK)
    damage: str = optional(DAMAGE)
    age_ms: Annotated[int, Field(ge=0, description=AGE_OF_STATES)]
    workers: int = optional("How many processes serve.")


_EXAMPLE_COUNTS = {"hours": [4, 3] + 22 * [1], "days": [29] + 29 * [24]}


class ExpiringCounts(Schema):
    """The live GUIDs that expire in each of the next hours and days. These begin `at`; the first day is 24 hours."""

    model_config = closed(_EXAMPLE_COUNTS)

    hours: Annotated[list[int], Field(min_length=24, max_length=24)]
    days: Annotated[list[int], Field(min_length=30, max_length=30)]


class Statistics(Schema):
    """The number of GUIDs of all owners."""

    model_config = closed({"live": 1000, "expired": 70, "expiring": _EXAMPLE_COUNTS, "at": "1795601551000"})

    live: int
    expired: Annotated[int, Field(description="Those that can still be renewed.")]
    expiring: ExpiringCounts
    at: Annotated[Digits, Field(description="The time of the count, in Unix milliseconds.")]


class ServiceVersion(Schema):
    """The name and version of the service."""

    model_config = closed({"name": "guidsvc", "version": "0.1.0"})

    name: Literal["guidsvc"]
    version: str


class Root(ServiceVersion):
    """The name and version of the service, with links to its paths."""

    model_config = closed({"name": "guidsvc", "version": "0.1.0", "links": {"guid": "/guid"}})

    links: dict[str, str]


class Document(Schema):
    """An OpenAPI document."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"openapi": "3.1.1"}]})

    openapi: str
