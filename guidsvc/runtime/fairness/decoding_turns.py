"""Turns for decoding JSON, which blocks the event loop: few large texts are decoded in one iteration.

All requests of a process share them: for their bodies, for the metadata of the records that they change, and for the
pages of large records.
"""

from guidsvc.runtime import cancel_scope
from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore

READERS = 4
"""Maximum number of large texts, or parts of batches, that are decoded in one iteration of the event loop."""
FREE_BYTES = 4 * 1024
"""Size of the metadata and patches that a task merges without a turn, or before its first."""
MERGED_BYTES = 16 * 1024
"""Size of the metadata and patches that are decoded, merged and rendered in one turn: 16 KiB take up to 1 ms."""
VALIDATED_BYTES = 32 * 1024
"""Size of the metadata of rows that is validated in one turn."""


class DecodingTurns(FairSemaphore):
    """The turns of all tasks of a process. The owner of each request takes its turns."""

    def __init__(self) -> None:
        super().__init__(READERS)

    async def take_own_turn(self) -> None:
        """Wait for a turn of the caller of the current request; see `take_turn`."""
        scope = cancel_scope.CURRENT.get()
        await self.take_turn(None if scope is None else scope.caller)


class MergeBudget:
    """What one task may merge before its next turn. The first FREE_BYTES need no turn."""

    def __init__(self, turns: DecodingTurns) -> None:
        self._turns = turns
        self._left_bytes = FREE_BYTES

    async def spend(self, stored: str | None, patch_bytes: int) -> None:
        """Wait for a turn if the present one has no room for a merge. Execute it without another wait.

        The patch costs as much as the stored text: each is decoded, merged and rendered.
        """
        size = len(stored or "") + patch_bytes
        if size > self._left_bytes:
            await self._turns.take_own_turn()
            self._left_bytes = MERGED_BYTES
        self._left_bytes -= size
