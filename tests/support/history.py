"""The operations in a history of what clients saw, and the rules that a history can break."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What its client was told of a write or a deletion."""

    OK = "ok"
    NO = "not applied"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class _Operation:
    key: str
    start: float
    end: float
    """`inf` for what never returned."""
    process: str

    def __str__(self) -> str:
        """Tell it for a reader."""
        return f"{self.start:.6f} to {self.end:.6f}  {self.process}: {self._what()}"

    def _what(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Read(_Operation):
    """A read that was answered, with a version and the mark of who wrote it, or with None: there is nothing."""

    version: int | None
    mark: str | None = None

    def _what(self) -> str:
        return "read nothing" if self.version is None else f"read version {self.version}, {self.mark!r}"


@dataclass(frozen=True, slots=True)
class Write(_Operation):
    """A creation or an update, with a mark that no other write of the key has; the version if it was acknowledged."""

    mark: str
    outcome: Outcome
    version: int | None = None

    def _what(self) -> str:
        at = "" if self.version is None else f", version {self.version}"
        return f"write {self.mark!r}: {self.outcome}{at}"


@dataclass(frozen=True, slots=True)
class Delete(_Operation):
    """A deletion of the version `base`, and of no other."""

    base: int
    outcome: Outcome

    def _what(self) -> str:
        return f"delete version {self.base}: {self.outcome}"


Operation = Read | Write | Delete


class Rule(StrEnum):
    """What can be broken."""

    STALE = "stale"
    """A read saw something older than what had been acknowledged before it began."""
    BACK = "going back"
    """A read saw something older than a read that had ended before it began."""
    PHANTOM = "phantom"
    """A read saw what was answered "not applied", what nobody wrote, or what was not yet written."""
    LOSS = "loss"
    """In the end there is something older than what was acknowledged or read."""
    TWICE = "done twice"
    """A request that was repeated under its Idempotency-Key created more than one record."""
    QUOTA = "over the quota"
    """There were more live records than the quota allows."""
    EVENTS = "events"
    """The event log lacks a write, has one twice or out of order, or has one that was never done."""
    VERSION = "version"
    """A version of two writes, a write of two versions, or a version that is not above those before it."""


@dataclass(frozen=True)
class Violation:
    """A broken rule, and the operations that show it: what was before, and what should not have come after it."""

    rule: Rule
    key: str
    why: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        """Tell it for a reader."""
        return "\n  ".join([f"{self.rule}: {self.key}: {self.why}", *map(str, self.operations)])
