"""Suggestion of a path of the service for a path that is not served."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import NamedTuple

from guidsvc import similarity

MAX_PATH = 100
"""Maximum length of a path that is compared with the routes, in characters."""
MIN_SIMILARITY = 0.7
"""Minimum similarity of a suggestion, from 0 to 1."""
_PREFIX = re.compile(r"(/api|/rest|/v[0-9]{1,2})(?=/)")
_GUID = re.compile(r"[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_SLASHES = re.compile(r"/+")
_API_DOCUMENT = re.compile(r"(?:openapi|swagger|api-docs?|schema|spec)[0-9.]{0,8}\.(?:json|ya?ml)", re.IGNORECASE)
"""The last part of a path at which other services have their OpenAPI document."""
_SYNONYMS = {
    "/health": "/livez",
    "/healthz": "/livez",
    "/health/live": "/livez",
    "/health/ready": "/readyz",
    "/healthcheck": "/livez",
    "/live": "/livez",
    "/ping": "/livez",
    "/ready": "/readyz",
    "/status": "/readyz",
    "/info": "/version",
    "/swagger": "/docs",
    "/redoc": "/docs",
    "/api-docs": "/docs",
    "/api": "/openapi.json",
    "/openapi": "/openapi.json",
    "/schema": "/openapi.json",
    "/spec": "/openapi.json",
    "/errors": "/problems",
    "/batch": "/guid:batch",
    "/uuid": "/guid",
    "/prometheus": "/metrics",
}
"""Paths of other services, mapped to the equivalent paths of this one."""


def explain(path: str, templates: Sequence[str]) -> str:
    """Say that nothing is served at a path, and which one is near. Of the path itself, only a GUID is repeated."""
    near = nearest(path, tuple(templates)) if len(path) <= MAX_PATH else None
    question = "" if near is None else f" Did you mean {_with_guid(near, path)}?"
    return f"Nothing is served at this path.{question} GET / lists the paths."


def _with_guid(template: str, path: str) -> str:
    """Return the path template with the GUID of a path, if it has one."""
    found = next(filter(None, map(_GUID.fullmatch, path.split("/"))), None)
    return template if found is None else template.replace("{guid}", found[0].replace("-", "").upper())


def is_api_document(name: str) -> bool:
    """Whether other services have their OpenAPI document under this name."""
    return _API_DOCUMENT.fullmatch(name) is not None


@lru_cache(256)
def nearest(path: str, templates: tuple[str, ...]) -> str | None:
    """Return the path template that is most similar to a path, or None if none is similar."""
    normal = _SLASHES.sub("/", f"/{path.lower()}").rstrip("/")
    while match := _PREFIX.match(normal):
        normal = normal[match.end() :]
    if not normal:
        return None
    segments = normal.split("/")
    return similarity.nearest(
        normal,
        templates,
        synonym="/openapi.json" if is_api_document(segments[-1]) else _SYNONYMS.get(normal),
        min_similarity=MIN_SIMILARITY,
        similarity=lambda _, template: _similarity(segments, _pattern_of(template)),
    )


class _Pattern(NamedTuple):
    """A path template, prepared for comparisons: its number of segments, and the `fixed` ones, which `matcher` has."""

    segments: int
    fixed: Sequence[int]
    matcher: SequenceMatcher[str]


@lru_cache(64)
def _pattern_of(template: str) -> _Pattern:
    names = template.split("/")
    fixed = [index for index, name in enumerate(names) if not name.startswith("{")]
    return _Pattern(len(names), fixed, SequenceMatcher(None, b="/".join(names[index] for index in fixed)))


def _similarity(segments: Sequence[str], pattern: _Pattern) -> float:
    """Return the similarity of a path and a template, from 0 to 1; 0 if it is below MIN_SIMILARITY.

    Parameters of the template match anything. Most paths are dissimilar by an upper bound, from their length or their
    characters, which takes a fraction of the time of the ratio. Anybody may send such paths.
    """
    if len(segments) != pattern.segments:
        return 0.0
    matcher = pattern.matcher
    matcher.set_seq1("/".join(segments[index] for index in pattern.fixed))
    if matcher.real_quick_ratio() < MIN_SIMILARITY or matcher.quick_ratio() < MIN_SIMILARITY:
        return 0.0
    return matcher.ratio()
