"""API keys: what one looks like, what is kept of it, and whether it opens.

    gs_<id>_<secret>_<checksum>

Letters and digits: 12 to look the key up by, 43 that hold 256 random bits, and 6 that tell a key that was mistyped from
one that is unknown without a look. Of the secret its SHA-256 is kept: a slow hash is for what can be guessed, and would
only hand out our time. This module knows no store, no clock and no HTTP.
"""

import re
import secrets
import string
from collections.abc import Iterable
from hashlib import sha256
from hmac import compare_digest
from math import inf
from typing import Annotated, Literal, NamedTuple
from zlib import crc32

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from guidsvc.domain.caller import Caller, scopes_of
from guidsvc.domain.record import Milliseconds, Time, User

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
ID_CHARACTERS, SECRET_CHARACTERS, CHECKSUM_CHARACTERS = 12, 43, 6
USED_EVERY_MS = 3600 * 1000
"""The use of a key is noted no more often than this."""
KEY_ID_PATTERN = f"^[0-9A-Za-z]{{{ID_CHARACTERS}}}$"
EXAMPLE_ID = "4rGcVd0Xq2Lb"

_TEXT = re.compile(
    rf"gs_([0-9A-Za-z]{{{ID_CHARACTERS}}})_([0-9A-Za-z]{{{SECRET_CHARACTERS}}})_([0-9A-Za-z]{{{CHECKSUM_CHARACTERS}}})"
)
_Digest = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class ApiKey(BaseModel):
    """What is kept of a key. Immutable; `version` rises with every change of it.

    `digest` is the SHA-256 of its secret; `former` that of the one before it was rotated, good until `former_until`.
    `scopes` are separated by blanks. `created`, `used` and `former_until` are Unix milliseconds; `expire` is in Unix
    seconds, or None for never. `used` is within the hour before its last use, or None if it never was.
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

    @property
    def caller(self) -> Caller:
        """Who asks with it."""
        return Caller(self.owner, scopes_of(self.scopes.split()), f"key:{self.id}")

    def is_good(self, now: int) -> bool:
        """Whether it is neither revoked nor expired at `now`, in Unix milliseconds."""
        return not self.revoked and (self.expire is None or now < self.expire * 1000)


class PresentedKey(NamedTuple):
    """A key as somebody shows it: the parts of its text."""

    id: str
    secret: str


def generate(owner: str, scopes: Iterable[str], now: int, *, expire: int | None = None) -> tuple[ApiKey, str]:
    """Draw a key; return what is to be kept of it, and its text, which is not kept anywhere."""
    key_id, secret = _random(ID_CHARACTERS), _random(SECRET_CHARACTERS)
    kept = ApiKey(id=key_id, owner=owner, scopes=" ".join(scopes), digest=digest_of(secret), expire=expire, created=now)
    return kept, format_key(key_id, secret)


def rotated(key: ApiKey, now: int, *, overlap: int = 0) -> tuple[ApiKey, str]:
    """Give a key a new secret; return it, and its new text. The old secret is good for `overlap` seconds more."""
    secret = _random(SECRET_CHARACTERS)
    changed = {"digest": digest_of(secret), "former": key.digest, "former_until": now + overlap * 1000}
    return key.model_copy(update=changed | {"version": key.version + 1}), format_key(key.id, secret)


def format_key(key_id: str, secret: str) -> str:
    """Return the text of a key."""
    return f"gs_{key_id}_{secret}_{_checksum(f'{key_id}_{secret}')}"


def parse(text: str) -> PresentedKey | None:
    """Return the parts of a key's text; None if it is not the text of a key."""
    found = _TEXT.fullmatch(text)
    if found is None or not compare_digest(found[3], _checksum(f"{found[1]}_{found[2]}")):
        return None
    return PresentedKey(found[1], found[2])


def digest_of(secret: str) -> str:
    """Return what is kept of a secret."""
    return sha256(secret.encode()).hexdigest()


_NONE = digest_of(secrets.token_hex(32))  # of a secret that nobody knows: what an unknown key is compared with


def verify(shown: PresentedKey, key: ApiKey | None, now: int) -> bool:
    """Whether what is shown is this key, and the key is good; what there is to compare takes the same time for all."""
    given = digest_of(shown.secret)
    is_it = compare_digest(given, _NONE if key is None else key.digest)
    was_it = compare_digest(given, _NONE if key is None or key.former is None else key.former)
    return key is not None and key.is_good(now) and (is_it or (was_it and now < key.former_until))


def good_for(shown: PresentedKey, key: ApiKey, now: int) -> float:
    """Return for how many seconds, at most, a key that opens is good, if nobody changes it."""
    ends = [key.expire * 1000] if key.expire is not None else []
    if digest_of(shown.secret) != key.digest:
        ends.append(key.former_until)
    return min((end - now) / 1000 for end in ends) if ends else inf


def _random(characters: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(characters))


def _checksum(text: str) -> str:
    """Return the CRC-32 of a text, in 6 letters and digits."""
    number, digits = crc32(text.encode()), ""
    for _ in range(CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


OVERLAP, MOST_OVERLAP = 3600, 30 * 24 * 3600
"""Seconds for which the old secret of a key that was rotated is good: where nobody says, and at most."""


KeyState = Literal["live", "revoked", "expired"]
