"""Memory for records, bounded in bytes: the least recently used go first."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from cachebox import LRUCache

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def bounded(size_bytes: int, weigh: Callable[[Key, Value], int]) -> LRUCache[Key, Value]:
    """Return a cache whose entries weigh at most so many bytes together; `put` fills it."""
    return LRUCache(max(1, size_bytes), getsizeof=weigh)  # 0 would be no bound at all


def put(cache: LRUCache[Key, Value], key: Key, value: Value) -> None:
    """Put an entry in the place of any other of its key; none is left if it alone exceeds the bound."""
    try:
        cache.insert(key, value)
    except OverflowError:
        cache.pop(key, None)
