"""API keys: text format, stored form and verification.

    gs_<id>_<secret>_<checksum>

All parts are letters and digits. The 12 of the id are the lookup key; the 43 of the secret hold 256 random bits. The 6
of the checksum tell a mistyped key from an unknown one without a lookup. Only the SHA-256 of the secret is stored: slow
hashes protect guessable secrets, and here would only cost processor time. This module knows no store, clock or HTTP.
"""

import re
import secrets
import string
from collections.abc import Iterable
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from math import inf
from typing import Annotated, Literal, NamedTuple
from zlib import crc32

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from guidsvc.domain.caller import Caller, scopes_of
from guidsvc.domain.leases.limits import UNLIMITED, LifeLimits
from guidsvc.domain.record import MAX_TIME, USER, Milliseconds, Time, User, check_text

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_CHARACTERS, SECRET_CHARACTERS, CHECKSUM_CHARACTERS = 12, 43, 6
USED_EVERY_MS = 3600 * 1000
"""Minimum interval between updates of a key's last use, in milliseconds."""
MAX_NOTE_CHARACTERS = 200
KEY_ID_PATTERN = f"^[0-9A-Za-z]{{{ID_CHARACTERS}}}$"
EXAMPLE_ID = "4rGcVd0Xq2Lb"

KeyState = Literal["live", "revoked", "expired"]

_TEXT = re.compile(
    rf"gs_([0-9A-Za-z]{{{ID_CHARACTERS}}})_([0-9A-Za-z]{{{SECRET_CHARACTERS}}})_([0-9A-Za-z]{{{CHECKSUM_CHARACTERS}}})"
)
_Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
_Limit = Annotated[int, Field(ge=1, le=MAX_TIME)]
NOTE = USER | {"maxLength": MAX_NOTE_CHARACTERS}
Note = Annotated[
    str, Field(strict=True), AfterValidator(partial(check_text, most=MAX_NOTE_CHARACTERS)), WithJsonSchema(NOTE)
]
"""A note about the purpose of a key, for those who manage keys."""
SearchText = Annotated[str, Field(min_length=1, max_length=MAX_NOTE_CHARACTERS)]
"""A part of a note, or the beginning of an id."""


class ApiKey(BaseModel):
    """An API key as it is stored. Immutable; each change creates a key with a higher `version`.

    `digest` is the SHA-256 of its secret; `former` is that of the secret before the rotation, valid until
    `former_until`. `scopes` are separated by blanks. `created`, `used` and `former_until` are Unix milliseconds;
    `expire` is in Unix seconds, or None for never. `used` is the last use, accurate to one hour, or None if the key
    was never used. `note` is a free text, or None. `max_ttl` and `max_life` limit the life that its writes give, in
    seconds from now and from the creation; None for no limit of its own.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    id: Annotated[str, Field(pattern=KEY_ID_PATTERN)]
    owner: User
    scopes: Annotated[str, AfterValidator(lambda text: " ".join(sorted(scopes_of(text.split()))))]
    digest: _Digest
    former: _Digest | None = None
    former_until: Milliseconds = 0
    expire: Time | None = None
    revoked: Annotated[int, Field(ge=0, le=1)] = 0
    created: Milliseconds
    used: Milliseconds | None = None
    version: Annotated[int, Field(ge=1)] = 1
    note: Note | None = None
    max_ttl: _Limit | None = None
    max_life: _Limit | None = None

    @property
    def caller(self) -> Caller:
        """The caller that this key authenticates."""
        limits = LifeLimits(self.max_ttl or 0, self.max_life or 0)
        return Caller(self.owner, scopes_of(self.scopes.split()), f"key:{self.id}", limits)

    def state(self, now: int) -> KeyState:
        """Return the state of the key at `now`, in Unix milliseconds."""
        return "live" if self.is_good(now) else "revoked" if self.revoked else "expired"

    def is_good(self, now: int) -> bool:
        """Whether the key is neither revoked nor expired at `now`, in Unix milliseconds."""
        return not self.revoked and (self.expire is None or now < self.expire * 1000)


class KeyFilter(NamedTuple):
    """A filter of a list of keys. None matches all."""

    owner: str | None = None
    state: KeyState | None = None
    text: str | None = None
    """A part of the note, in upper or lower case, or the beginning of the id."""

    def holds(self, key: ApiKey, now: int) -> bool:
        """Whether a key matches the filter at `now`, in Unix milliseconds."""
        return (
            self.owner in {None, key.owner}
            and self.state in {None, key.state(now)}
            and (self.text is None or _matches(key, self.text))
        )


def _matches(key: ApiKey, text: str) -> bool:
    return key.id.startswith(text) or text.casefold() in (key.note or "").casefold()


class PresentedKey(NamedTuple):
    """The parts of a key that a client presents."""

    id: str
    secret: str


def generate(  # the members of a key
    owner: str,
    scopes: Iterable[str],
    now: int,
    *,
    expire: int | None = None,
    note: str | None = None,
    limits: LifeLimits = UNLIMITED,
) -> tuple[ApiKey, str]:
    """Generate a key; return the entity to store, and the key's text, which is never stored."""
    key_id, secret = _random(ID_CHARACTERS), _random(SECRET_CHARACTERS)
    names, digest = " ".join(scopes), digest_of(secret)
    key = ApiKey(
        id=key_id,
        owner=owner,
        scopes=names,
        digest=digest,
        expire=expire,
        created=now,
        note=note,
        max_ttl=limits.max_ttl or None,
        max_life=limits.max_life or None,
    )
    return key, format_key(key_id, secret)


def rotated(key: ApiKey, now: int, *, overlap: int = 0) -> tuple[ApiKey, str]:
    """Return the key with a new secret, and its new text. The old secret stays valid for `overlap` seconds."""
    secret = _random(SECRET_CHARACTERS)
    changed = {"digest": digest_of(secret), "former": key.digest, "former_until": now + overlap * 1000}
    return key.model_copy(update=changed | {"version": key.version + 1}), format_key(key.id, secret)


def format_key(key_id: str, secret: str) -> str:
    """Format a key as text."""
    return f"gs_{key_id}_{secret}_{_checksum(f'{key_id}_{secret}')}"


def parse(text: str) -> PresentedKey | None:
    """Parse the text of a key; return None if it is malformed."""
    match = _TEXT.fullmatch(text)
    if match is None or not compare_digest(match[3], _checksum(f"{match[1]}_{match[2]}")):
        return None
    return PresentedKey(match[1], match[2])


def digest_of(secret: str) -> str:
    """Return the stored form of a secret: its SHA-256 in hexadecimal."""
    return sha256(secret.encode()).hexdigest()


_UNKNOWN_DIGEST = digest_of(secrets.token_hex(32))  # of a discarded secret: stands in for an unknown key


def verify(presented: PresentedKey, key: ApiKey | None, now: int) -> bool:
    """Whether the presented key matches this key and is valid. The comparisons take the same time in all cases."""
    digest = digest_of(presented.secret)
    is_current = compare_digest(digest, _UNKNOWN_DIGEST if key is None else key.digest)
    is_former = compare_digest(digest, _UNKNOWN_DIGEST if key is None or key.former is None else key.former)
    return key is not None and key.is_good(now) and (is_current or (is_former and now < key.former_until))


def good_for(presented: PresentedKey, key: ApiKey, now: int) -> float:
    """Return the seconds for which a verified key stays valid unless it is changed; infinity if it never expires."""
    ends = [key.expire * 1000] if key.expire is not None else []
    if digest_of(presented.secret) != key.digest:
        ends.append(key.former_until)
    return min((end - now) / 1000 for end in ends) if ends else inf


def _random(characters: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(characters))


def _checksum(text: str) -> str:
    """Return the CRC-32 of a text in base 62, as 6 characters."""
    number, digits = crc32(text.encode()), ""
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


OVERLAP_SECONDS, MAX_OVERLAP_SECONDS = 3600, 30 * 24 * 3600
"""How long the old secret of a rotated key stays valid, in seconds: default and maximum."""
