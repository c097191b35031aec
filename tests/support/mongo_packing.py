"""Packing of WiredTiger's keys and values by functions that are made once for each format.

WiredTiger's own functions are written in Python, and read the format again for each key and each value. The functions
here do the same for the formats of SecantusDB's tables: texts that end with a zero byte, and then an integer, bytes or
nothing. All other formats are left to WiredTiger.

SecantusDB also reads and decodes the indexes of a collection several times for each command. Here it reads the key and
the value in one call, and decodes equal values once.
"""

import re
import sys
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any

import bson
import wiredtiger
from secantus import storage
from wiredtiger.intpacking import pack_int, unpack_int

Unpack = Callable[[bytes], list[Any]]
Pack = Callable[..., bytes]
_FORMAT = re.compile("S*[qu]?")
slow_pack, slow_unpack = wiredtiger.pack, wiredtiger.unpack


def install() -> None:
    """Let cursors, and SecantusDB's storage, use these functions."""
    cursors: Any = sys.modules[wiredtiger.Cursor.__module__]
    assert cursors.pack is slow_pack
    cursors.pack, cursors.unpack = pack, unpack
    storage.Storage._iter_indexes = indexes_of


def unpack(key_format: str, packed: bytes) -> list[Any]:
    """Return the values that a key or a value consists of."""
    return _unpack_for(key_format)(packed)


def pack(key_format: str, *values: Any) -> bytes:
    """Return the packed form of these values."""
    return _pack_for(key_format)(*values)


@cache
def _unpack_for(key_format: str) -> Unpack:
    text_count = key_format.count("S")
    if not key_format or not _FORMAT.fullmatch(key_format):
        return lambda packed: slow_unpack(key_format, packed)

    def texts(packed: bytes) -> list[Any]:
        return [text.decode() for text in packed.split(b"\0", text_count)[:text_count]]

    def texts_and_integer(packed: bytes) -> list[Any]:
        *texts, last = packed.split(b"\0", text_count)
        return [*[text.decode() for text in texts], unpack_int(last)[0]]

    def texts_and_bytes(packed: bytes | None) -> list[Any]:
        *texts, last = (packed or b"").split(b"\0", text_count)
        return [*[text.decode() for text in texts], last]

    return {"S": texts, "q": texts_and_integer, "u": texts_and_bytes}[key_format[-1]]


@cache
def _pack_for(key_format: str) -> Pack:
    text_count = key_format.count("S")
    if not key_format or not _FORMAT.fullmatch(key_format):
        return lambda *values: slow_pack(key_format, *values)
    pack_last: Pack = {"S": _nothing, "q": pack_int, "u": _unchanged}[key_format[-1]]

    def pack_plain(*values: Any) -> bytes:
        """Leave to WiredTiger texts with a zero byte, and bytes in place of a text."""
        try:
            head = "\0".join((*values[:text_count], ""))
            if head.count("\0") == text_count:
                return head.encode() + pack_last(values[-1])
        except TypeError:
            pass
        packed: bytes = slow_pack(key_format, *values)
        return packed

    return pack_plain


def _nothing(_: str) -> bytes:
    return b""


def _unchanged(value: bytes) -> bytes:
    return value


def indexes_of(
    database: storage.Storage, name: str, collection: str
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield the name, the key and the options of each index of a collection, except the one of `_id`."""
    cursor = database._cursor(storage._IDX_TABLE)
    prefix = pack("SS", name, collection)
    cursor.set_key(name, collection, "")
    place = cursor.search_near()
    if place == wiredtiger.WT_NOTFOUND or (place < 0 and cursor.next() != 0):
        return
    while True:
        key, value = cursor._get_raw_key_value()
        if not key.startswith(prefix):
            return
        index_key, options = _decoded_index(bytes(value))
        yield key[len(prefix) : -1].decode(), index_key.copy(), options.copy()
        if cursor.next() != 0:
            return


@lru_cache(1000)
def _decoded_index(value: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    document = bson.decode(value)
    return document.get("key", {}), document.get("options", {})
