"""Suggestion of a path of the service for a path that is not served."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from guidsvc import similarity

MAX_PATH = 100
"""Maximum length of a path that is compared with the routes, in characters."""
MIN_SIMILARITY = 0.7
"""Minimum similarity of a suggestion, from 0 to 1."""
_PREFIX = re.compile(r"(/api|/rest|/v[0-9]{1,2})(?=/)")
_GUID = re.compile(r"[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_SLASHES = re.compile(r"/+")
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
    "/swagger.json": "/openapi.json",
    "/errors": "/problems",
    "/batch": "/guid:batch",
    "/uuid": "/guid",
    "/prometheus": "/metrics",
}
"""Paths that other services have for what this one serves under another path."""


def explain(path: str, templates: Sequence[str]) -> str:
    """Say that nothing is served at a path, and which one is near. Of the path itself, only a GUID is repeated."""
    near = nearest(path, tuple(templates)) if len(path) <= MAX_PATH else None
    question = "" if near is None else f" Did you mean {_with_guid(near, path)}?"
    return f"Nothing is served at this path.{question} GET / lists the paths."


def _with_guid(template: str, path: str) -> str:
    """Return the path template with the GUID of a path, if it has one."""
    found = next(filter(None, map(_GUID.fullmatch, path.split("/"))), None)
    return template if found is None else template.replace("{guid}", found[0].replace("-", "").upper())


@lru_cache(256)
def nearest(path: str, templates: tuple[str, ...]) -> str | None:
    """Return the path template that is most similar to a path, or None if none is similar."""
    normal = _SLASHES.sub("/", f"/{path.lower()}").rstrip("/")
    while match := _PREFIX.match(normal):
        normal = normal[match.end() :]
    if not normal:
        return None
    synonym = _SYNONYMS.get(normal)
    return similarity.nearest(normal, templates, synonym=synonym, min_similarity=MIN_SIMILARITY, similarity=_similarity)


def _similarity(path: str, template: str) -> float:
    """Return the similarity of a path and a template, from 0 to 1. Parameters of the template match anything."""
    segments, names = path.split("/"), template.split("/")
    if len(segments) != len(names):
        return 0.0
    fixed = [index for index, name in enumerate(names) if not name.startswith("{")]
    compared, expected = ("/".join(each[index] for index in fixed) for each in (segments, names))
    return SequenceMatcher(None, compared, expected).ratio()
