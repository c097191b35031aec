"""The known name that a misspelt name probably means."""

from collections.abc import Callable, Collection
from difflib import get_close_matches


def nearest(
    name: str,
    known: Collection[str],
    *,
    synonym: str | None = None,
    min_similarity: float = 0.6,
    similarity: Callable[[str, str], float] | None = None,
) -> str | None:
    """Return `synonym` if it is a known name, else the known name that is most similar, or None if none is.

    `similarity` compares the name with a known one; its result is from 0 to 1. Without it, the letters are compared.
    """
    if synonym in known:
        return synonym
    if similarity is None:
        return next(iter(get_close_matches(name, known, 1, min_similarity)), None)
    best, near = max(((similarity(name, each), each) for each in known), default=(0.0, None))
    return near if best >= min_similarity else None
