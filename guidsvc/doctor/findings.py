"""Findings of the doctor, and their severity."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from guidsvc.connection_urls import redact

Status = Literal["ok", "warn", "fail"]
STATUSES: Sequence[Status] = ("ok", "warn", "fail")
"""All states, from the best to the worst."""
MAX_CHARACTERS = 400
"""Maximum length of a text: it may quote what a server sent."""
_URL = re.compile(r"(\w+://\S+?)([:;,.)]*(?=\s|$))")
"""A URL in a text, without the punctuation that follows it."""


class Finding(NamedTuple):
    """The result of a check, and its remedy."""

    status: Status
    found: str
    remedy: str = ""


class Result(NamedTuple):
    """A finding with the name of its check."""

    name: str
    finding: Finding


class Group(NamedTuple):
    """The results of the checks of one part."""

    name: str
    results: Sequence[Result]

    @property
    def status(self) -> Status:
        """The state of the worst check."""
        return worst(result.finding.status for result in self.results)


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst of some states; `ok` if there is none."""
    return max(statuses, key=STATUSES.index, default="ok")


def ok(found: str) -> Finding:
    """Return the finding that all is well."""
    return Finding("ok", found)


def warn(found: str, remedy: str) -> Finding:
    """Return the finding of something that works, but should be changed."""
    return Finding("warn", found, remedy)


def fail(found: str, remedy: str) -> Finding:
    """Return the finding of a fault."""
    return Finding("fail", found, remedy)


def fault(message: str, remedy: str = "see docs/failure-modes.md") -> Finding:
    """Return the finding of an error message: the fault, a semicolon, and the remedy, which is `remedy` by default."""
    found, _, own_remedy = message.partition("; ")
    return Finding("fail", found, own_remedy or remedy)


def bounded(finding: Finding) -> Finding:
    """Return a finding whose texts are short and show no password of a URL."""
    return finding._replace(found=_bounded(finding.found), remedy=_bounded(finding.remedy))


def _bounded(text: str) -> str:
    line = _URL.sub(_redacted, " ".join(text.split()))
    return line if len(line) <= MAX_CHARACTERS else f"{line[: MAX_CHARACTERS - 3]}..."


def _redacted(match: re.Match[str]) -> str:
    return f"{redact(match[1])}{match[2]}"
