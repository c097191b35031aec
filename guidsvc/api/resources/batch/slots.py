"""Concurrency limits of batches, per process."""

from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore

GROUPS = 32
"""Maximum number of groups that run at a time, with owners in turn. Other requests use the remaining slots."""
DOCUMENTS = 4
"""Maximum number of large documents that are decoded and run at a time, at most 3 of one owner."""
SMALL_DOCUMENTS = 32
"""Maximum number of small documents that are decoded and run at a time. Each holds up to 4 MiB of results in memory."""


class BatchSlots:
    """Semaphores for groups, and for large and small documents."""

    def __init__(self) -> None:
        self.groups = FairSemaphore(GROUPS)
        self.documents = FairSemaphore(DOCUMENTS)
        self.small_documents = FairSemaphore(SMALL_DOCUMENTS)
