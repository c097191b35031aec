"""Instruments that tell the state of the service: each is read when metrics are rendered."""

from collections.abc import Callable
from typing import NamedTuple


class RecordGauges(NamedTuple):
    """The numbers of records at a time; see `guidsvc.services.statistics`."""

    counted_at: float
    """The time, in Unix seconds."""
    live: int
    expired: int
    within_hour: int
    """Live records that expire within an hour."""
    within_day: int


class KeySetMetrics:
    """Reads of the key set that signs tokens."""

    def __init__(self) -> None:
        self.failures: int | None = None
        """The number of reads that failed; None without a key set."""
        self.read_at: float | None = None
        """The time of the last read that succeeded, in Unix seconds."""


class StateMetrics:
    """The state of the service, its store and its files."""

    def __init__(self) -> None:
        self.key_set = KeySetMetrics()
        self.connections_limit: Callable[[], int] = int
        self.is_store_writable: Callable[[], bool | None] = _unknown
        self.records: Callable[[], RecordGauges | None] = _unknown
        """The last known numbers of records."""
        self.certificate_not_after: Callable[[], float | None] = _unknown
        """The end of the validity of the certificate for TLS, in Unix seconds; None without one."""


def _unknown() -> None:
    return None
