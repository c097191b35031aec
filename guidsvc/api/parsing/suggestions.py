"""Suggestions of known names for names that a client misspelled."""

from collections.abc import Collection, Sequence
from functools import lru_cache

from guidsvc import similarity

MAX_COMPARED = 40
"""Maximum length of a name that is compared with the known ones, in characters. All known names are shorter."""
MIN_SIMILARITY = 0.6
"""Minimum similarity of a suggestion, from 0 to 1."""
MAX_LISTED = 16
"""Maximum number of known names in a message."""
_SYNONYMS = {
    "expiration": "expire",
    "expiry": "expire",
    "valid_until": "expire",
    "id": "guid",
    "uuid": "guid",
    "name": "user",
    "tags": "metadata",
    "data": "metadata",
    "operation": "op",
    "method": "op",
    "ops": "operations",
    "after": "cursor",
    "offset": "cursor",
    "next": "cursor",
    "page_size": "limit",
    "per_page": "limit",
    "count": "limit",
    "status": "state",
    "fields": "view",
    "dry_run": "validate_only",
}
"""Names that other services use, mapped to the names of this one."""
_EXPIRE = "send the time of expiry as `expire`, in Unix seconds"
_TTL = "send the seconds from now as `ttl`"
_ADVICE = {
    ("lifetime", "ttl"): f"; {_TTL}",
    ("lease", "ttl"): f"; {_TTL}",
    ("increment", "ttl"): f"; {_TTL}",
    ("expires_in", "ttl"): f"; {_TTL}",
    ("expire_in", "ttl"): f"; {_TTL}",
    ("max_age", "ttl"): f"; {_TTL}",
    ("duration", "ttl"): f"; {_TTL}",
    ("ttl", "expire"): f"; {_EXPIRE}",
    ("lifetime", "expire"): f"; {_EXPIRE}",
    ("expires_in", "expire"): f"; {_EXPIRE}",
    ("expire_in", "expire"): f"; {_EXPIRE}",
    ("max_age", "expire"): f"; {_EXPIRE}",
    ("duration", "expire"): f"; {_EXPIRE}",
    ("spread", "expire"): f"; {_EXPIRE}",
    ("page", "cursor"): ": pages have no numbers; send `next` of the previous response as `cursor`",
    ("full", "view"): "; did you mean `view=full`?",
}
"""Remedies for names of other services whose values have another meaning here."""


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return a question that suggests the most similar known name; empty if none is similar."""
    near = nearest(name, tuple(known))
    return "" if near is None else f"did you mean `{near}`?"


@lru_cache(1024)
def _nearest(name: str, known: tuple[str, ...]) -> str | None:
    synonym = _SYNONYMS.get(name.replace("-", "_"))
    return similarity.nearest(name, known, synonym=synonym, min_similarity=MIN_SIMILARITY)


def nearest(name: str, known: tuple[str, ...]) -> str | None:
    """Return the known name that is most similar to a name, or None if none is similar."""
    if len(name) > MAX_COMPARED:
        return None
    return _nearest(name.strip().lower(), known)


def unknown(name: str, kind: str, known: Sequence[str]) -> str:
    """Return that a name is unknown, a similar known name, and all known names.

    `kind` is the kind of name, in the singular.
    """
    plain = name.strip().lower().replace("-", "_")
    for (other, similar), what in _ADVICE.items():
        if plain == other and similar in known and plain not in known:
            return f"is not a known {kind}{what}"
    advice = did_you_mean(name, known) or "remove it."
    return f"is not a known {kind}; {advice} {_listed(kind, known)}"


def _listed(kind: str, known: Sequence[str]) -> str:
    noun = kind.rpartition(" ")[2]
    if not known:
        return f"This request has no {kind}s"
    if len(known) == 1:
        return f"The only known {noun} is `{known[0]}`"
    return f"The known {noun}s are {enumerated(known)}"


def enumerated(names: Sequence[str], conjunction: str = "and") -> str:
    """Return names as an enumeration, each in backquotes."""
    quoted = [f"`{name}`" for name in names[:MAX_LISTED]]
    return f" {conjunction} ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))
