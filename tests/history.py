"""What happened to each GUID, as its clients saw it, and whether that keeps the promise of the cache.

A write is acknowledged with its version, refused ("nothing was changed"), or of unknown outcome. A read says
which version it saw. Times are those of one clock, taken before a request is sent and after it is answered.
"""

import time
from collections import defaultdict
from dataclasses import dataclass, field


@dataclass
class History:
    """The history of every GUID that a test touches."""

    acknowledged: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    refused: set[str] = field(default_factory=set)
    violations: list[str] = field(default_factory=list)
    reads: int = 0
    writes: int = 0
    unknown: int = 0

    def floor(self, guid: str) -> int:
        """Return the version that a read which starts now must see, or a later one."""
        return max((version for _, version in self.acknowledged[guid]), default=0)

    def wrote(self, guid: str, version: int) -> None:
        """Note that a write was acknowledged."""
        self.writes += 1
        self.acknowledged[guid].append((time.monotonic(), version))

    def refuse(self, mark: str) -> None:
        """Note that a write, known by its mark, was answered as one that changed nothing."""
        self.refused.add(mark)

    def read(self, guid: str, version: int, mark: str, floor: int) -> None:
        """Judge a read by the floor that was taken when it was sent."""
        self.reads += 1
        if version < floor:
            self.violations.append(f"{guid}: a read saw version {version} after {floor} had been acknowledged")
        if mark in self.refused:
            self.violations.append(f"{guid}: a read saw {mark}, a write that was told to have changed nothing")
