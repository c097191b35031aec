"""Administration of API keys: create, list, annotate, rotate, revoke and describe them.

Every change is a compare-and-swap and is retried after a lost race, for example with an update of the last use. HTTP
and the command line are unknown here; authentication by key is in `guidsvc.auth.authenticator`.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from copy import copy
from typing import Any, Literal, NamedTuple, Protocol

from guidsvc.domain import api_key
from guidsvc.domain.api_key import ID_CHARACTERS, KEY_ID_PATTERN, OVERLAP_SECONDS, ApiKey, KeyFilter, KeyState
from guidsvc.domain.caller import ANYONE, SCOPES, Caller
from guidsvc.domain.leases.limits import UNLIMITED, LifeLimits
from guidsvc.errors import (
    Contention,
    GuidsvcError,
    InvalidField,
    InvalidRequest,
    KeyNotActive,
    NoSuchKey,
    OutcomeUnknown,
)
from guidsvc.runtime import cancel_scope
from guidsvc.runtime.clock import Clock
from guidsvc.store.contract import ApiKeyRepository

STRIDE = 500
"""Number of keys per read of the store."""
SCANNED = 10_000
"""Maximum number of keys that are read for one page: about 100 ms of work, in steps."""
EVERY_KEY = KeyFilter()
ATTEMPTS = 100
"""Maximum number of attempts of a change that loses its races, before it fails as unavailable."""

KeyAction = Literal["key-create", "key-revoke", "key-rotate", "key-update"]


class KeyAudit(Protocol):
    """The audit log of changes of keys."""

    def __call__(self, action: KeyAction, key: ApiKey, caller: Caller, outcome: Literal["done", "unknown"], /) -> None:
        """Log an action of a caller, with the new state of the key."""


class Issued(NamedTuple):
    """A key and its text, which cannot be recovered later."""

    key: ApiKey
    text: str


class KeyPage(NamedTuple):
    """A page of keys, and the id after which the next page starts; None on the last page."""

    keys: Sequence[ApiKey]
    next: str | None


class KeyService:
    """The operations on API keys. Changes may raise Unavailable or OutcomeUnknown.

    If an `audit` is given, each change is logged there, with the acting caller, before the method returns.
    """

    def __init__(self, api_keys: ApiKeyRepository, *, clock: Clock, audit: KeyAudit | None = None) -> None:
        self._api_keys = api_keys
        self._clock = clock
        self._audit = audit
        self._caller = ANYONE

    def acting_for(self, caller: Caller) -> "KeyService":
        """Return this service, acting for the caller."""
        acting = copy(self)
        acting._caller = caller  # noqa: SLF001  # an instance of this class
        return acting

    async def create(
        self,
        owner: str,
        scopes: Iterable[str],
        *,
        expire: int | None = None,
        note: str | None = None,
        limits: LifeLimits = UNLIMITED,
    ) -> Issued:
        """Create a key for an owner, valid until `expire` in Unix seconds, or without end if None.

        `limits` are those of the life that its writes give.

        Raise InvalidRequest if `expire` is in the past.
        """
        now, chosen = self._clock(), tuple(scopes)
        if expire is not None and expire * 1000 <= now:
            raise InvalidRequest(InvalidField("/expire", "is in the past; the key would never be valid"))
        for _ in range(ATTEMPTS):
            issued = Issued(*api_key.generate(owner, chosen, now, expire=expire, note=note, limits=limits))
            if await self._swap("key-create", None, issued.key):
                return issued
        raise Contention(f"{ATTEMPTS} generated key ids were already in use; retry")

    async def get(self, key_id: str) -> ApiKey:
        """Return a key; raise NoSuchKey if the id is unknown or malformed."""
        if not re.fullmatch(KEY_ID_PATTERN, key_id):
            raise NoSuchKey(f"A key id is {ID_CHARACTERS} letters and digits: the part between gs_ and the next _.")
        key = await self._api_keys.get(key_id)
        if key is None:
            raise NoSuchKey(f"There is no key with the id {key_id}.")
        return key

    async def page(self, after: str, limit: int, wanted: KeyFilter = EVERY_KEY) -> KeyPage:
        """Return the first matching keys whose id is greater than `after`, ordered by id.

        The page ends early after SCANNED keys, so that one request cannot read any number of them.
        """
        found: list[ApiKey] = []
        count = limit + 1 if wanted == EVERY_KEY else STRIDE
        for _ in range(SCANNED // STRIDE):
            part = await self._api_keys.list(after, count)
            for key in part:
                if wanted.holds(key, self._clock()):
                    if len(found) == limit:
                        return KeyPage(found, after)
                    found.append(key)
                after = key.id
            if len(part) < count:
                return KeyPage(found, None)
            await asyncio.sleep(0)  # an SQLite store reads keys on the event loop
        return KeyPage(found, after)

    async def walk(self, wanted: KeyFilter = EVERY_KEY) -> AsyncIterator[ApiKey]:
        """Yield all matching keys, ordered by id."""
        after: str | None = ""
        while after is not None:
            page = await self.page(after, STRIDE, wanted)
            for key in page.keys:
                yield key
            after = page.next

    async def revoke(self, key_id: str) -> ApiKey:
        """Revoke a key and return it; a key that is revoked already is unchanged."""
        return await self._change(
            "key-revoke", key_id, lambda key: key if key.revoked else _with_changes(key, revoked=1)
        )

    async def set_note(self, key_id: str, note: str | None) -> ApiKey:
        """Set the note of a key, valid or not, or remove it if None; return the key."""
        return await self._change(
            "key-update", key_id, lambda key: key if key.note == note else _with_changes(key, note=note)
        )

    async def rotate(self, key_id: str, *, overlap: int = OVERLAP_SECONDS) -> Issued:
        """Give a key a new secret. The current one stays valid for `overlap` seconds; an older one ends at once.

        Raise KeyNotActive if the key was revoked or has expired.
        """
        text = ""

        def rotate_key(key: ApiKey) -> ApiKey:
            nonlocal text
            state = self.state_of(key)
            if state != "live":
                raise KeyNotActive(key.id, state)
            rotated, text = api_key.rotated(key, self._clock(), overlap=overlap)
            return rotated

        return Issued(await self._change("key-rotate", key_id, rotate_key), text)

    def state_of(self, key: ApiKey) -> KeyState:
        """Return the current state of a key."""
        return key.state(self._clock())

    def describe(self, key: ApiKey) -> dict[str, Any]:
        """Return the public members of a key as a JSON object, without its digests. Times are strings of digits."""
        scopes = key.scopes.split()
        members: dict[str, Any] = {
            "id": key.id,
            "owner": key.owner,
            "scopes": [scope for scope in SCOPES if scope in scopes],
            "created": str(key.created),
        }
        if key.note is not None:
            members["note"] = key.note
        times = {name: str(time) for name in ("used", "expire") if (time := getattr(key, name)) is not None}
        limits = {name: str(limit) for name in ("max_ttl", "max_life") if (limit := getattr(key, name)) is not None}
        return members | times | limits | {"state": self.state_of(key)}

    async def _change(self, action: KeyAction, key_id: str, make: Callable[[ApiKey], ApiKey]) -> ApiKey:
        """Replace a key by the result of `make`, which is called again after a lost race."""
        for _ in range(ATTEMPTS):
            old = await self.get(key_id)
            new = make(old)
            if new is old or await self._swap(action, old, new):
                return new
        raise Contention(f"key {key_id} was changed concurrently {ATTEMPTS} times in a row; retry")

    async def _swap(self, action: KeyAction, old: ApiKey | None, new: ApiKey) -> bool:
        """Swap in the store. Once sent, the write is shielded from cancellation and completes."""
        cancel_scope.checkpoint()
        with cancel_scope.shielded():
            try:
                swapped = await self._api_keys.swap(old, new)
            except BaseException as error:
                if isinstance(error, OutcomeUnknown) or not isinstance(error, GuidsvcError):
                    self._note(action, new, "unknown")
                raise
            if swapped:
                self._note(action, new, "done")
            return swapped

    def _note(self, action: KeyAction, key: ApiKey, outcome: Literal["done", "unknown"]) -> None:
        if self._audit is not None:
            self._audit(action, key, self._caller, outcome)


def _with_changes(key: ApiKey, **members: object) -> ApiKey:
    return key.model_copy(update=members | {"version": key.version + 1})
