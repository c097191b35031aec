"""How much of batches is done at a time, in a process."""

from guidsvc.runtime.fairness.fair_semaphore import FairSemaphore

GROUPS = 32
"""So many groups of batches are done at a time, those of each owner in turn; the other places are for others."""
DOCUMENTS = 4
"""So many large documents are decoded and done at a time; one owner's are at most 3 of them."""
SMALL_DOCUMENTS = 32
"""So many other documents are decoded and done at a time: each collects up to 4 MiB of results in memory."""
READERS = 4
"""So many documents of up to 64 KiB and groups of lines are read at a time, those of each owner in turn: to read is
work of the event loop, for which others wait."""


class BatchPlaces:
    """Places for groups, for large and small documents, and for what is being read on the event loop."""

    def __init__(self) -> None:
        self.groups = FairSemaphore(GROUPS)
        self.documents = FairSemaphore(DOCUMENTS)
        self.small_documents = FairSemaphore(SMALL_DOCUMENTS)
        self.readers = FairSemaphore(READERS)
