"""Content negotiation (RFC 9110, 12.5): choose a media type by Accept, and compression by Accept-Encoding."""

import re
from collections.abc import Iterator, Sequence

from guidsvc.http.headers.lists import elements

_WEIGHT = re.compile(r"[ \t]*+q[ \t]*+=[ \t]*+(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*+", re.IGNORECASE)

MOST_PARAMETERS = 16
"""Maximum number of parameters read of a media range; the rest is ignored."""


def preferred(accept: str | None, offers: Sequence[str]) -> str:
    """Return the offer with the highest weight in Accept; the first on a tie, or if no offer is accepted."""
    if not accept:
        return offers[0]
    names = {offer: (offer, offer.partition("/")[0] + "/*", "*/*") for offer in offers}
    weights = _weights(accept, {name for each in names.values() for name in each})
    return max(offers, key=lambda offer: next((weights[name] for name in names[offer] if name in weights), 0.0))


def accepts_gzip(accept_encoding: str | None) -> bool:
    """Whether Accept-Encoding accepts gzip, and does not prefer uncompressed content to it."""
    if not accept_encoding:
        return False
    weights = _weights(accept_encoding, {"gzip", "x-gzip", "*", "identity"})
    weight = next((weights[name] for name in ("gzip", "x-gzip", "*") if name in weights), 0.0)
    return weight > 0 and weight >= weights.get("identity", 0.0)


def _weights(value: str, names: set[str]) -> dict[str, float]:
    """Return the weights of these elements of a list; the first occurrence of each counts."""
    weights: dict[str, float] = {}
    for element in elements(value):
        media, _, parameters = element.partition(";")
        name = media.strip().lower()
        if name in names and name not in weights:
            weights[name] = next(_weights_of(parameters), 1.0)
    return weights


def _weights_of(parameters: str) -> Iterator[float]:
    parts = parameters.split(";", MOST_PARAMETERS)[:MOST_PARAMETERS]
    return (float(match[1]) for match in map(_WEIGHT.fullmatch, parts) if match)
