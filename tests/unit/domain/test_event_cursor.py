"""Event cursors: they decode to their position, reveal nothing about it, and cannot be forged."""

import pytest

from guidsvc.domain.events import cursor as cursors
from guidsvc.domain.events.cursor import CHARACTERS, Cursor, CursorKey, draw_key

KEY = CursorKey(7, bytes(range(32)))
TYPICAL_DIFFERENCE = range(20, 61)
"""Range of the number of bits in which two random 80-bit texts differ. One pair in a million is outside."""


def position_of(text: str, key: CursorKey = KEY) -> Cursor | None:
    """Return the position of a cursor."""
    sealed = cursors.decode(text)
    assert sealed is not None
    return sealed.unseal(key)


def sealed_bits(position: Cursor) -> int:
    """Return the encrypted part of a cursor as a number."""
    sealed = cursors.decode(position.encode())
    assert sealed is not None
    return int.from_bytes(sealed.sealed)


@pytest.mark.parametrize("position", [Cursor(KEY, 0, 0), Cursor(KEY, 1, 0xFFFF), Cursor(KEY, 2**48 - 1, 1)])
def test_cursor_decodes_to_its_position(position: Cursor) -> None:
    text = position.encode()
    assert len(text) == CHARACTERS
    assert position_of(text) == position
    assert position.encode() == text


def test_encoding_of_cursors_never_changes() -> None:
    """Clients keep cursors for weeks, and use them with later versions of the service."""
    assert Cursor(KEY, 1, 2).encode() == "AgAAAAcz-gVTYy7b5zxD"


def test_neighbouring_cursors_have_nothing_in_common() -> None:
    for number in range(200):
        bits = sealed_bits(Cursor(KEY, number, 5))
        for other in (Cursor(KEY, number + 1, 5), Cursor(KEY, number, 4), Cursor(draw_key(), number, 5)):
            assert (bits ^ sealed_bits(other)).bit_count() in TYPICAL_DIFFERENCE


def test_forged_cursor_is_rejected() -> None:
    text = Cursor(KEY, 1, 2).encode()
    forged = [text[:at] + ("B" if text[at] == "A" else "A") + text[at + 1 :] for at in range(8, CHARACTERS)]
    assert [position_of(each) for each in forged] == [None] * len(forged)
    assert position_of(text, CursorKey(KEY.epoch, bytes(32))) is None


def test_secret_is_in_no_representation() -> None:
    assert "secret" not in repr(Cursor(KEY, 1, 2))
