"""Whether each request with an Idempotency-Key was done once, however often it was sent.

A request creates records, each with a mark that no other record has. It was done once if each mark has at most one
GUID, in the answers and in the store, and if each answer after the first repeats it. Its creations become writes of an
ordinary history too (`tests.support.history_checker`): a creation that is done again after its record was deleted is a
stale read.
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
    """What an attempt says of one record."""

    outcome: Outcome
    created: Created | None = None


@dataclass(frozen=True)
class Attempt:
    """One time that a request was sent, and the result for each of its marks."""

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
        """Return what the answers say was created."""
        return [found[0] for number in range(len(self.marks)) if (found := self._created(number))]

    def writes(self, stored: Mapping[str, Iterable[str]]) -> Iterator[Write]:
        """Yield a write for each mark whose GUID is known, from an answer or from the store (GUIDs by mark)."""
        for number, mark in enumerate(self.marks):
            created, found = self._created(number), list(stored.get(mark, ()))
            if created or found:
                guid, version = created[0] if created else (found[0], None)
                yield Write(
                    guid, self.attempts[0].start, self._end(number), self.key, mark, self._outcome(number), version
                )

    def violations(self, stored: Mapping[str, Iterable[str]]) -> Iterator[Violation]:
        """Yield the marks that have several GUIDs."""
        for number, mark in enumerate(self.marks):
            guids = {each.guid for each in self._created(number)} | set(stored.get(mark, ()))
            if len(guids) > 1:
                yield Violation(Rule.TWICE, self.key, f"{mark!r} is {' and '.join(sorted(guids))}", ())

    def _results(self, number: int) -> list[Result]:
        return [attempt.results[number] for attempt in self.attempts]

    def _created(self, number: int) -> list[Created]:
        return [result.created for result in self._results(number) if result.created is not None]

    def _outcome(self, number: int) -> Outcome:
        """Return what became of a creation: what was once acknowledged is, whatever was said before."""
        outcomes = {result.outcome for result in self._results(number)}
        return next(each for each in (Outcome.OK, Outcome.UNKNOWN, Outcome.NO) if each in outcomes)

    def _end(self, number: int) -> float:
        """Return when a creation was acknowledged first, or, if it never was, when its last attempt ended."""
        acknowledged = [each.end for each in self.attempts if each.results[number].outcome is Outcome.OK]
        return acknowledged[0] if acknowledged else self.attempts[-1].end


def check_once(requests: Iterable[Request], stored: Mapping[str, Iterable[str]]) -> list[Violation]:
    """Return the requests that were done twice; `stored` are the GUIDs in the store by their mark."""
    return [violation for request in requests for violation in request.violations(stored)]


class Count(NamedTuple):
    """How many live records there were in the store at a time."""

    at: float
    live: int


def check_quota(counts: Iterable[Count], quota: int) -> list[Violation]:
    """Return the first moment, if any, in which there were more live records than the quota allows."""
    over = [count for count in counts if count.live > quota]
    why = f"{over[0].live} live records of {quota} at {over[0].at:.6f}, and in {len(over)} counts" if over else ""
    return [Violation(Rule.QUOTA, "the quota", why, ())] if over else []
