"""Content negotiation (RFC 9110, 12.5.1): which of the media types on offer a client would rather have."""

import re
from collections.abc import Sequence

_WEIGHT = re.compile(r"[ \t]*q[ \t]*=[ \t]*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*", re.IGNORECASE)


def preferred(accept: str | None, offers: Sequence[str]) -> str:
    """Return the offer that the header Accept weighs most; of several the first, and the first if it wants none."""
    ranges = [_range(part) for part in (accept or "*/*").split(",")]
    return max(offers, key=lambda offer: _weight(offer, ranges))


def _range(part: str) -> tuple[str, float]:
    media, *parameters = part.split(";")
    weights = [float(found[1]) for found in map(_WEIGHT.fullmatch, parameters) if found]
    return media.strip().lower(), weights[0] if weights else 1.0


def _weight(offer: str, ranges: Sequence[tuple[str, float]]) -> float:
    """Weigh an offer by the range that names it most exactly."""
    for name in (offer, offer.partition("/")[0] + "/*", "*/*"):
        for media, weight in ranges:
            if media == name:
                return weight
    return 0.0
