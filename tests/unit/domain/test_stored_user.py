"""The user of a stored record: the same rules as for users from clients, in another implementation."""

import pytest
from pydantic import TypeAdapter, ValidationError

from guidsvc.domain.record import MAX_USER_CHARACTERS, StoredUser, User

CLIENTS, STORED = TypeAdapter[str](User), TypeAdapter[str](StoredUser)


def accepts(adapter: TypeAdapter[str], user: object) -> bool:
    """Return whether a user is valid."""
    try:
        return adapter.validate_python(user) == user
    except ValidationError:
        return False


def test_stored_user_may_have_the_characters_of_a_clients() -> None:
    characters = [chr(code) for code in range(0x11000) if not 0xD800 <= code < 0xE000]

    texts = [text for character in characters for text in (character, f"a{character}", f"{character} ")]

    assert [text for text in texts if accepts(CLIENTS, text) != accepts(STORED, text)] == []


@pytest.mark.parametrize("user", ["", "a", "ü" * MAX_USER_CHARACTERS, "ü" * (MAX_USER_CHARACTERS + 1), b"a", 1, None])
def test_stored_user_has_the_length_and_type_of_a_clients(user: object) -> None:
    assert accepts(STORED, user) is accepts(CLIENTS, user)
