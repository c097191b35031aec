"""Reading of a selection of records in portions of bounded size, to limit memory."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from guidsvc.domain.record import Record

STRIDE = 250
"""Maximum number of records in one read."""
FRAME_BYTES = 256
"""Bytes of a record in a list beyond its `json_body`: what `view=full` adds, and separators."""

Find = Callable[[str, int], Awaitable[Sequence[Record]]]
"""Returns the first records after a GUID, up to a limit; fewer only at the end of the selection."""


def size_of(record: Record) -> int:
    """Return the approximate size of a record in a list, in bytes."""
    return len(record.json_body) + FRAME_BYTES


async def portions(
    find: Find, after: str, limit: int, *, most_bytes: int, probe: int
) -> AsyncGenerator[Sequence[Record]]:
    """Yield the records after a GUID, at most `limit`, in portions of at most about `most_bytes`, or one record.

    The first read has `probe` records; later ones adapt to the size of the previous portion. Records that do not fit
    are read again for the next portion, so that nothing is held while the consumer works on one.
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
    """Return the longest prefix of at most `most_bytes`, or the first record if it is larger, and its size."""
    total = 0
    for number, record in enumerate(records):
        size = size_of(record)
        if number and total + size > most_bytes:
            return records[:number], total
        total += size
    return records, total
