"""The clock of the server, and the difference of the clock of this host."""

import structlog

from guidsvc.monitoring.health import TOLERABLE_SKEW_SECONDS
from guidsvc.runtime.clock import Clock, ContinuousClock, continuous_clock, system_clock
from guidsvc.telemetry.metrics import StoreMetrics
from guidsvc.telemetry.outage import Outage

_log = structlog.get_logger(__name__)


class ServerClock:
    """A lower estimate of the server's clock, from its last answer."""

    def __init__(
        self,
        meter: StoreMetrics,
        *,
        clock: Clock = system_clock,
        timer: ContinuousClock = continuous_clock,
    ) -> None:
        self._meter = meter
        self._clock = clock
        self._timer = timer
        self._offset_ms: float | None = None
        self._outage = Outage(_log, "clock differs from that of MongoDB", "clock agrees with that of MongoDB again")

    def start(self) -> int:
        """Return the time of this host, to pass to `note` with the answer to a request that begins now."""
        return self._clock()

    def note(self, started: int, server_now: int) -> None:
        """Note the time that the server has answered, in Unix milliseconds.

        It was read between start and end of the request, so only a difference beyond both is one of the clocks.
        """
        self._offset_ms = server_now - 1000 * self._timer()
        ahead, behind = max(0, started - server_now), max(0, server_now - self._clock())
        skew_seconds = (ahead - behind) / 1000
        self._meter.clock_skew_seconds, self._meter.clock_skew_measured_at = skew_seconds, self._clock() / 1000
        if abs(skew_seconds) > TOLERABLE_SKEW_SECONDS:
            self._outage.begin(ahead_seconds=skew_seconds)
        else:
            self._outage.end()

    def now(self) -> int | None:
        """Return the time by the server's clock, in Unix milliseconds; None if no answer has told it."""
        return None if self._offset_ms is None else int(self._offset_ms + 1000 * self._timer())
