"""Errors of requests: invalid ones, and repeated ones with an Idempotency-Key."""

from typing import NamedTuple

from guidsvc.errors.base import GuidsvcError


class InvalidGuid(GuidsvcError):
    """The text is not a GUID. The message says why, and suggests the intended GUID if it is clear."""


class InvalidField(NamedTuple):
    """One fault in a request.

    `pointer` is a JSON Pointer (RFC 6901) into the body; the empty string means the whole body. For a fault in the
    query or a header, `parameter` or `header` names it instead. `detail` is an actionable message for the client: what
    the place must be or has wrong, without a subject, or, if `is_clause`, with a subject of its own.
    """

    pointer: str
    detail: str
    parameter: str | None = None
    header: str | None = None
    is_clause: bool = False


class InvalidRequest(GuidsvcError):
    """The request is invalid. `faults` lists every fault found, at least one."""

    def __init__(self, *faults: InvalidField) -> None:
        super().__init__(
            "; ".join(f"{fault.header or fault.parameter or fault.pointer} {fault.detail}".lstrip() for fault in faults)
        )
        self.faults = faults


class IdempotencyMismatch(GuidsvcError):
    """The idempotency key was used for a different request."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for a different request; use a new key for a new request.")


class InProgress(GuidsvcError):
    """The first request with this idempotency key is still in progress."""

    def __init__(self) -> None:
        super().__init__(
            "The first request with this Idempotency-Key is still in progress; retry later to get its answer."
        )
