"""Check that each request with an Idempotency-Key was executed once, however often it was sent.

A request creates records, each with a unique mark. It was executed once if each mark has at most one GUID, in the
responses and in the store, and if each response after the first repeats it. Its creations also become writes of an
ordinary history (`tests.support.history_checker`), which reports a creation that is repeated after a deletion.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.history import Outcome, Rule, Violation, Write


class Created(NamedTuple):
    """A record that was created."""

    guid: str
    version: int


class Result(NamedTuple):
    """The result of an attempt for one record."""

    outcome: Outcome
    created: Created | None = None


@dataclass(frozen=True)
class Attempt:
    """One attempt to send a request, with the result for each of its marks."""

    start: float
    end: float
    process: str
    results: list[Result]


@dataclass
class Request:
    """A request with an Idempotency-Key, which creates a record for each mark."""

    key: str
    marks: list[str]
    attempts: list[Attempt] = field(default_factory=list)

    def created(self) -> list[Created]:
        """Return the created records according to the responses."""
        return [attempts_created[0] for number in range(len(self.marks)) if (attempts_created := self._created(number))]

    def writes(self, stored: Mapping[str, Iterable[str]]) -> Iterator[Write]:
        """Yield a write for each mark whose GUID is known from a response or from the store (GUIDs by mark)."""
        for number, mark in enumerate(self.marks):
            created, stored_guids = self._created(number), list(stored.get(mark, ()))
            if created or stored_guids:
                guid, version = created[0] if created else (stored_guids[0], None)
                yield Write(
                    guid, self.attempts[0].start, self._end(number), self.key, mark, self._outcome(number), version
                )

    def violations(self, stored: Mapping[str, Iterable[str]]) -> Iterator[Violation]:
        """Yield the marks that have several GUIDs."""
        for number, mark in enumerate(self.marks):
            guids = {created.guid for created in self._created(number)} | set(stored.get(mark, ()))
            if len(guids) > 1:
                yield Violation(Rule.TWICE, self.key, f"{mark!r} is {' and '.join(sorted(guids))}", ())

    def _results(self, number: int) -> list[Result]:
        return [attempt.results[number] for attempt in self.attempts]

    def _created(self, number: int) -> list[Created]:
        return [result.created for result in self._results(number) if result.created is not None]

    def _outcome(self, number: int) -> Outcome:
        """Return the outcome of a creation; an acknowledgement outweighs all other responses."""
        outcomes = {result.outcome for result in self._results(number)}
        return next(outcome for outcome in (Outcome.OK, Outcome.UNKNOWN, Outcome.NO) if outcome in outcomes)

    def _end(self, number: int) -> float:
        """Return the end of the first acknowledged attempt, or of the last attempt if none was acknowledged."""
        acknowledged = [attempt.end for attempt in self.attempts if attempt.results[number].outcome is Outcome.OK]
        return acknowledged[0] if acknowledged else self.attempts[-1].end


def check_once(requests: Iterable[Request], stored: Mapping[str, Iterable[str]]) -> list[Violation]:
    """Return the requests that were executed twice; `stored` are the GUIDs in the store by their mark."""
    return [violation for request in requests for violation in request.violations(stored)]


class Count(NamedTuple):
    """The number of live records in the store at a time."""

    at: float
    live: int


def check_quota(counts: Iterable[Count], quota: int) -> list[Violation]:
    """Return a violation for the first moment, if any, at which there were more live records than the quota."""
    over = [count for count in counts if count.live > quota]
    why = f"{over[0].live} live records of {quota} at {over[0].at:.6f}, and in {len(over)} counts" if over else ""
    return [Violation(Rule.QUOTA, "the quota", why, ())] if over else []
