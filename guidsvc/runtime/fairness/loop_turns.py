"""Turns of work that takes CPU time: little of it is done in one iteration of the event loop, and groups take turns."""

import asyncio
import time
from collections.abc import Hashable
from typing import Protocol

from guidsvc.runtime.fairness.fair_queue import FairQueue

TURN_SECONDS = 0.002
"""Maximum time of the turns in one iteration of the event loop; it is exceeded by at most one turn."""


class TurnTaker(Protocol):
    """Work that waits for its turn."""

    def done(self) -> bool:
        """Return whether it no longer waits."""

    def proceed(self) -> None:
        """Do the next part of the work."""


class LoopTurns:
    """Work that waits for its turn, by group, such as the network of a client."""

    def __init__(self) -> None:
        self._waiting: FairQueue[TurnTaker] = FairQueue()
        self._is_scheduled = False

    def append(self, group: Hashable, taker: TurnTaker) -> None:
        """Let the work proceed when it is its turn."""
        self._waiting.append(group, taker)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._is_scheduled = False
        deadline = time.perf_counter() + TURN_SECONDS
        try:
            while (turn := self._waiting.pop(lambda _: True)) is not None:
                turn[1].proceed()
                if time.perf_counter() >= deadline:
                    break
        finally:  # also after an error in one: the others would wait forever
            if self._waiting.length:
                self._schedule()
