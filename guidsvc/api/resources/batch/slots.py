"""Concurrency limits of batches, per process.

A document of 1,000 writes of one GUID runs for seconds. So an owner leaves as many of the slots that its documents and
groups hold for long free as it has, and those of others need not wait.
"""

from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore

GROUPS = 8
"""Maximum number of groups that run at a time, at most 4 of one owner. Other requests use the remaining slots.

Batches are no faster with more, and other requests wait longer: all operations of a group may continue in one iteration
of the event loop, such as after a commit.
"""
DOCUMENTS = 4
"""Maximum number of large documents that are decoded and run at a time, at most 2 of one owner."""
SMALL_DOCUMENTS = 32
"""Maximum number of small documents that are decoded and run at a time, at most 16 of one owner. Each holds up to 4 MiB
of results in memory."""
GROUP_WAIT_SECONDS = 4.0
"""Maximum time that the first group of a batch waits for a slot, in seconds."""


class BatchSlots:
    """Semaphores for groups, and for large and small documents."""

    def __init__(self) -> None:
        self.groups = FairSemaphore(GROUPS, is_dynamic=True)
        self.documents = FairSemaphore(DOCUMENTS, is_dynamic=True)
        self.small_documents = FairSemaphore(SMALL_DOCUMENTS, is_dynamic=True)
