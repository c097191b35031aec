"""The types of the arguments of `keys`: each function returns the value of a text, or raises ValueError."""

import re

from pydantic import TypeAdapter, ValidationError

from guidsvc.domain.api_key import ID_CHARACTERS, KEY_ID_PATTERN, MAX_NOTE_CHARACTERS, MAX_OVERLAP_SECONDS, Note
from guidsvc.domain.caller import Scope, scopes_of
from guidsvc.domain.durations import parse_whole_seconds
from guidsvc.domain.record import User
from guidsvc.program import runnable


def key_id(text: str) -> str:
    """Return the id of a key."""
    if re.fullmatch(KEY_ID_PATTERN, text):
        return text
    raise ValueError(
        f"must be {ID_CHARACTERS} letters and digits: the part between gs_ and the next _, as "
        f"`{runnable('keys list')}` shows it"
    )


def owner(text: str) -> str:
    """Return the name of an owner."""
    return _text(text, TypeAdapter(User))


def note(text: str) -> str:
    """Return the note of a key."""
    return _text(text, TypeAdapter(Note))


def search_text(text: str) -> str:
    """Return a part of a note, or the beginning of an id."""
    if not 1 <= len(text) <= MAX_NOTE_CHARACTERS:
        raise ValueError(f"must have 1 to {MAX_NOTE_CHARACTERS} characters, not {len(text)}")
    return _utf8(text)


def _text(text: str, adapter: TypeAdapter[str]) -> str:
    try:
        return adapter.validate_python(_utf8(text))
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("must be UTF-8") from error
    return text


def scopes(text: str) -> frozenset[Scope]:
    """Return scopes that are separated by commas."""
    return scopes_of(name.strip() for name in text.split(","))


def limit(text: str) -> int:
    """Return a limit of the life of GUIDs, in seconds."""
    seconds = parse_whole_seconds(text)
    if not seconds:
        raise ValueError("must be at least 1 second; for no limit, leave it out")
    return seconds


def overlap(text: str) -> int:
    """Return a duration in seconds."""
    seconds = parse_whole_seconds(text)
    if seconds > MAX_OVERLAP_SECONDS:
        raise ValueError(f"must be at most {MAX_OVERLAP_SECONDS} ({MAX_OVERLAP_SECONDS // 86_400}d)")
    return seconds
