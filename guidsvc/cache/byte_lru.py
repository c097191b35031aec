"""LRU cache bounded in bytes."""

from collections.abc import Callable, Hashable
from typing import TypeVar

from cachebox import LRUCache

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def bounded(size_bytes: int, weigh: Callable[[Key, Value], int]) -> LRUCache[Key, Value]:
    """Return an LRU cache whose entries weigh at most `size_bytes` in total. Fill it with `put`."""
    return LRUCache(max(1, size_bytes), getsizeof=weigh)  # 0 would mean unbounded


def put(cache: LRUCache[Key, Value], key: Key, value: Value) -> None:
    """Insert or replace an entry. An entry larger than the whole cache is not stored, and any old one is removed."""
    if cache.maxsize == 1:  # of 0 bytes: nothing fits, and need not be weighed
        return
    try:
        cache.insert(key, value)
    except OverflowError:
        cache.pop(key, None)
