"""Head sampling: which new traces are exported, decided before anything is made for them.

The sampler draws how many requests to skip until the next one that is sampled, so a skipped request costs a decrement.
These gaps have the geometric distribution, so each request is sampled with the same probability, independently of all
others. A request that cannot be traced where it is asked about leaves its sample to the next `draw`.
"""

import math
import random
import re
from collections.abc import Callable
from typing import NamedTuple

from guidsvc.telemetry.traceparent import Parent


class HeadSampler:
    """Samples new traces with a probability, `rate`. Its `gap` is the number of requests before the next sample."""

    __slots__ = ("_random", "_rate", "gap")

    def __init__(self, rate: float, draw_number: Callable[[], float] = random.random) -> None:
        self._rate = rate
        self._random = draw_number
        self.gap = self._draw_gap()

    def draw(self) -> bool:
        """Return whether the trace that begins now is sampled."""
        if self.gap:
            self.gap -= 1
            return False
        if self._rate < 1:  # otherwise there is no gap
            self.gap = self._draw_gap()
        return True

    def skip(self) -> bool:
        """Skip a request; return False, and skip nothing, if it is to be sampled."""
        if self.gap:
            self.gap -= 1
            return True
        return False

    def _draw_gap(self) -> float:
        """Return the number of requests to skip; infinite if none is ever sampled."""
        if self._rate <= 0:
            return math.inf
        if self._rate >= 1:
            return 0
        return math.floor(math.log(1 - self._random()) / math.log1p(-self._rate))


_IDS = 2**64
_RATIO = r"AlwaysOnSampler|AlwaysOffSampler|TraceIdRatioBased\{([^}]+)\}"
_PARENT_BASED = r",remoteParentSampled:AlwaysOnSampler,remoteParentNotSampled:AlwaysOffSampler,.*\}"
_DESCRIPTION = re.compile(rf"(ParentBased\{{root:)?({_RATIO})(?(1){_PARENT_BASED})")


class SamplingPolicy(NamedTuple):
    """What a standard sampler of OpenTelemetry decides: by the client, or by the lower 64 bits of the trace ID."""

    bound: int
    """IDs below it are sampled."""
    follows_client: bool

    @property
    def rate(self) -> float:
        """The probability that a new trace is sampled."""
        return self.bound / _IDS

    def samples(self, parent: Parent) -> bool:
        """Whether a request that continues the trace of its client is sampled."""
        trace_id, is_sampled = parent
        return is_sampled if self.follows_client else int(trace_id[16:], 16) < self.bound


def policy_of(description: str) -> SamplingPolicy:
    """Return the policy of the sampler with this description; if it is not a standard one, sample everything."""
    match = _DESCRIPTION.fullmatch(description)
    if match is None:
        return SamplingPolicy(_IDS, follows_client=False)
    rate = match[3] or float(match[2] == "AlwaysOnSampler")
    return SamplingPolicy(round(float(rate) * _IDS), follows_client=match[1] is not None)
