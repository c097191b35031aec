"""Schemas of problems (RFC 9457)."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from guidsvc.api.contract.schemas.fields import Digits, Schema, optional
from guidsvc.api.contract.schemas.records import GuidRecord
from guidsvc.api.contract.schemas.service import AGE_OF_STATES, CLOCK, DAMAGE
from guidsvc.domain.record import GUID_PATTERN


class Problem(Schema):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    code: str
    detail: Annotated[str, Field(description="What is wrong, and what to do.")]
    request_id: Annotated[str, Field(description="The id of the request, also in the log of the service.")]


class Fault(Schema):
    """One fault in a request: where it is, and what is wrong."""

    model_config = ConfigDict(extra="forbid")

    detail: str
    pointer: str = optional("The place in the body, as a JSON Pointer (RFC 6901); empty for the whole body.")
    parameter: str = optional("The name of the query parameter.")
    header: str = optional("The name of the header.")


class Faulty(Problem):
    """A problem that lists every fault of the request."""

    errors: list[Fault]


class Outdated(Problem):
    """A problem with the expiry of the GUID and the end of its renewal period, in Unix seconds."""

    expired_at: Digits
    renewable_until: Digits


class AnyProblem(Problem):
    """A problem of any type, with its specific members."""

    model_config = ConfigDict(extra="allow")

    line: int = optional("In a batch of lines: the number of the line, from 1.")


class Conflicting(Problem):
    """A problem with the current record, if there is one."""

    record: GuidRecord = optional("The current record, if the key has the scope `read`.")


class Unready(Problem):
    """A problem of a part of the service. Only `/readyz` adds the state of each part."""

    ready: Literal[False] = optional("Whether the service is ready for requests.")
    store: Literal["up", "down", "read-only", "replaced"] = optional("The last known state of the store.")
    cache: Literal["up", "down", "off"] = optional("The last known state of the cache.")
    clock: str = optional(CLOCK)
    damage: str = optional(DAMAGE)
    age_ms: int = optional(AGE_OF_STATES)


class Limited(Problem):
    """A problem with the latest expiry that a write may set, and that of the record, in Unix seconds."""

    max_expire: Digits
    expire: Digits = optional("The expiry of the record.")


class Gone(Problem):
    """A problem with the cursors at which the feed of events can continue."""

    reason: Annotated[
        Literal["trimmed", "rewound", "another-store"],
        Field(
            description="`trimmed`: events after the cursor were removed. `rewound`: the store was restored "
            "from a backup. `another-store`: the cursor belongs to another store."
        ),
    ]
    oldest: Annotated[str, Field(description="The cursor before the oldest event.")]
    now: Annotated[str, Field(description="The cursor after the newest event.")]


class Uncertain(Problem):
    """A problem with the generated GUID under which a record may have been created."""

    guid: Annotated[str, Field(pattern=GUID_PATTERN)] = optional(
        "The generated GUID of the record that may have been created."
    )


class TooSoon(Problem):
    """A problem with the expiry, in Unix seconds, the remaining seconds, and the seconds that the read requires."""

    expire: Digits
    left: Digits
    valid_for: Digits


PROBLEMS: dict[str, type[Problem]] = {
    "invalid-request": Faulty,
    "expired": Outdated,
    "precondition-failed": Conflicting,
    "unavailable": Unready,
    "life-limit": Limited,
    "expires-too-soon": TooSoon,
    "events-gone": Gone,
    "outcome-unknown": Uncertain,
}
"""The schemas of problems with specific members, by code."""


class ProblemSummary(Schema):
    """A problem in the list of all."""

    model_config = ConfigDict(extra="forbid")

    type: Annotated[str, Field(description="The `type` of such an error: the path of its explanation, or its URL.")]
    code: str
    title: str
    status: int
    when: Annotated[str, Field(description="When the problem occurs.")]


class ProblemList(Schema):
    """All problems."""

    model_config = ConfigDict(extra="forbid")

    problems: list[ProblemSummary]


class Explanation(Schema):
    """The explanation of a problem."""

    model_config = ConfigDict(extra="forbid")

    code: str
    title: str
    status: int
    when: Annotated[str, Field(description="When the problem occurs.")]
    remedy: Annotated[str, Field(description="What to do about it.")]
    example: Annotated[dict[str, Any], Field(description="An example of the problem.")]
