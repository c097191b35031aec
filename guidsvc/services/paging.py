"""Reading a selection of records a portion at a time, so that no more than some bytes of them are in memory."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from guidsvc.domain.record import Record

STRIDE = 250
"""The most records that are read at once."""
FRAME_BYTES = 256
"""Bytes of a record in a list, beside those of its short form: what `view=full` adds, and separators."""

Find = Callable[[str, int], Awaitable[Sequence[Record]]]
"""Returns the first records after a GUID, at most so many; fewer only if there are no more."""


def size_of(record: Record) -> int:
    """Return about how many bytes a record has in a list."""
    return len(record.json_body) + FRAME_BYTES


async def portions(
    find: Find, after: str, limit: int, *, most_bytes: int, probe: int
) -> AsyncGenerator[Sequence[Record]]:
    """Yield the records after a GUID, at most `limit`, in portions of about `most_bytes` or of one record.

    `probe` records are read first; how many are read next depends on how large those were. What does not fit into a
    portion is read again for the next, so nothing is held here while the caller works on one.
    """
    asked = min(limit, probe)
    while asked:
        found = await find(after, asked)
        part, size = _fitting(found, most_bytes)
        is_last = len(part) == len(found) < asked
        if not part:
            return
        after, limit = part[-1].guid, limit - len(part)
        asked = 0 if is_last else min(limit, STRIDE, max(1, most_bytes * len(part) // size))
        handover = [part]
        del found, part
        yield handover.pop()


def _fitting(records: Sequence[Record], most_bytes: int) -> tuple[Sequence[Record], int]:
    """Return the first records that have at most so many bytes, or the first one; and how many bytes those have."""
    total = 0
    for number, record in enumerate(records):
        size = size_of(record)
        if number and total + size > most_bytes:
            return records[:number], total
        total += size
    return records, total
