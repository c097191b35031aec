"""The growth of a process that fills a cache in memory: `python -m tests.support.cache_growth KIND` prints it.

It prints the bytes by which the process has grown, and the number of entries. It imports nothing but the cache, because
that takes most of the time.
"""

import sys
from pathlib import Path

from guidsvc.cache.memory import MemoryCache
from guidsvc.domain.record import Record
from guidsvc.store.contract import WOULD_BLOCK, WouldBlock
from tests.support.factories import record
from tests.support.gated_store import GatedStore

NOW = 1_795_000_000_000
METADATA = {
    "none": "",
    "a little": "x" * 100,
    "almost large": "x" * 4_000,
    "large": "x" * 16_000,
    "not ASCII": "\N{LATIN SMALL LETTER E WITH ACUTE}" * 1_500,
    "large and not ASCII": "\N{GRINNING FACE}" * 4_000,
}
SIZE_BYTES = 48 * 2**20
WIRE_HEAD_BYTES = 420
"""The approximate size of a response head."""


def metadata(text: str) -> str | None:
    """Return the metadata of a record with this text."""
    return f'{{"a":"{text}"}}' if text else None


class GeneratingStore(GatedStore):
    """A store that creates each record on request, as a store on disk would read it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._metadata = metadata(text)

    def get_nowait(self, guid: str, /) -> Record | WouldBlock | None:
        generated = record(NOW, guid=guid, user=f"user {guid}", metadata=self._metadata)
        return Record.model_validate_json(generated.model_dump_json())


def resident_bytes() -> int:
    """Return the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def growth(text: str) -> tuple[int, int]:
    """Read more records than the cache can hold; return the growth of the process and the number of entries."""
    cache = MemoryCache(GeneratingStore(text), clock=lambda: NOW, size_bytes=SIZE_BYTES)
    bytes_before = resident_bytes()
    for number in range(2 * SIZE_BYTES // record(NOW, metadata=metadata(text)).memory_bytes):
        cached = cache.get_nowait(f"{number:032X}")
        assert cached is not None
        assert cached is not WOULD_BLOCK
        cached.render_cache["answer"] = b"x" * WIRE_HEAD_BYTES + cached.json_body  # as the connection does
    return resident_bytes() - bytes_before, len(cache._entries)


if __name__ == "__main__":
    print(*growth(METADATA[sys.argv[1]]))
