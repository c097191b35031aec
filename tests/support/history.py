"""The operations in a history of client requests, and the rules that a history must obey."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """The result of a write or a deletion according to its response."""

    OK = "ok"
    NO = "not applied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Operation:
    key: str
    start: float
    end: float
    """`inf` for a request without a response."""
    process: str

    def __str__(self) -> str:
        """Return the operation as one line of text."""
        return f"{self.start:.6f} to {self.end:.6f}  {self.process}: {self._description()}"

    def _description(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Read(_Operation):
    """A read with a response: the version and the mark of its write, or None if the record is absent."""

    version: int | None
    mark: str | None = None

    def _description(self) -> str:
        return "read nothing" if self.version is None else f"read version {self.version}, {self.mark!r}"


@dataclass(frozen=True, slots=True)
class Write(_Operation):
    """A creation or an update, with a mark that no other write of the key has; the version if it was acknowledged."""

    mark: str
    outcome: Outcome
    version: int | None = None

    def _description(self) -> str:
        at = "" if self.version is None else f", version {self.version}"
        return f"write {self.mark!r}: {self.outcome}{at}"


@dataclass(frozen=True, slots=True)
class Delete(_Operation):
    """A conditional deletion of the version `base`."""

    base: int
    outcome: Outcome

    def _description(self) -> str:
        return f"delete version {self.base}: {self.outcome}"


Operation = Read | Write | Delete


class Rule(StrEnum):
    """The rules of a history."""

    STALE = "stale"
    """A read returned an older state than a write that was acknowledged before it began."""
    BACK = "going back"
    """A read returned an older state than a read that had ended before it began."""
    PHANTOM = "phantom"
    """A read returned a write whose response was "not applied", that nobody sent, or that was not sent yet."""
    LOSS = "loss"
    """The final state is older than an acknowledged write or a read."""
    TWICE = "done twice"
    """A request that was repeated under its Idempotency-Key created more than one record."""
    QUOTA = "over the quota"
    """There were more live records than the quota allows."""
    EVENTS = "events"
    """The event log lacks a write, has one twice or out of order, or has one that was never applied."""
    VERSION = "version"
    """Two writes have one version, a write has two versions, or a version is not above the previous one."""


@dataclass(frozen=True)
class Violation:
    """A broken rule, and the operations that show it: the earlier one, and the one that must not follow it."""

    rule: Rule
    key: str
    why: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        """Return the violation and its operations as text."""
        return "\n  ".join([f"{self.rule}: {self.key}: {self.why}", *map(str, self.operations)])
