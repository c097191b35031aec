"""The tests' own packing of WiredTiger's keys and values equals that of WiredTiger."""

from itertools import product
from typing import Any

import pytest

from tests.support import mongo_packing

TEXTS = ["", "a", "db", "\N{EURO SIGN}\N{GRINNING FACE}", "a\0b", "\0"]
BYTES = [b"", b"\0", b"\0\0a", b"abc\0", bytes(range(256))]
INTEGERS = [0, 1, -1, 63, 64, -64, -65, 8255, 8256, 8257, -8256, -8257, 2**40, -(2**40), 2**63 - 1, -(2**63)]
VALUES: dict[str, list[Any]] = {"S": TEXTS, "u": BYTES, "q": INTEGERS, "Q": [0, 64, 2**63], "b": [0, 100]}


@pytest.mark.parametrize("key_format", ["S", "SS", "SSS", "q", "u", "SSu", "SSSu", "SSq", "SSSq", "QQ", "Sb"])
def test_packing_equals_that_of_wiredtiger(key_format: str) -> None:
    for values in product(*(VALUES[kind] for kind in key_format)):
        packed = mongo_packing.slow_pack(key_format, *values)
        assert mongo_packing.pack(key_format, *values) == packed
        assert mongo_packing.unpack(key_format, packed) == mongo_packing.slow_unpack(key_format, packed)
    assert mongo_packing.unpack("u", None) == [b""]  # type: ignore[arg-type]  # a value of WiredTiger without data
