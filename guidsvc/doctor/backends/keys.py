"""Checks of the API keys in the store, read without a claim on it, and of the key set that signs tokens."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from guidsvc.auth.tokens.jwks_client import fetch
from guidsvc.auth.tokens.jwt_bearer import JwtTrustPolicy, open_jwt_verifier
from guidsvc.config import Settings
from guidsvc.connection_urls import redact, scheme_of
from guidsvc.doctor.checks import Check, Closed
from guidsvc.doctor.findings import Finding, fail, ok, warn
from guidsvc.domain.api_key import ApiKey
from guidsvc.errors.plurals import counted
from guidsvc.program import runnable
from guidsvc.runtime.clock import system_clock
from guidsvc.store import MONGO_SCHEMES

MAX_KEYS = 10_000
"""Maximum number of keys that are read."""
SOON_SECONDS = 14 * 24 * 3600
"""A key that ends within this time is a warning."""
SHOWN = 5
"""Maximum number of keys that a finding names."""
_JWKS_SECONDS = 8.0


def checks(settings: Settings, *, has_store: bool) -> Sequence[Check]:
    """Return the checks of the keys; only of the key set of tokens if the store cannot be read."""
    keys = _Keys(settings.store_url)
    jwks = [Check("keys.jwks", partial(_jwks, settings), _JWKS_SECONDS)] if settings.jwt_jwks else []
    if not has_store:
        return jwks
    return (
        *jwks,
        Check("keys.exist", partial(_exist, keys, has_tokens=bool(settings.jwt_jwks)), is_gate=True),
        Check("keys.admin", partial(_admin, keys)),
        Check("keys.expiry", partial(_expiry, keys)),
        Check("keys.endless", partial(_endless, keys)),
    )


class _Keys:
    """The live keys of the store, read once."""

    def __init__(self, store_url: str) -> None:
        self._store_url = store_url
        self._live: Sequence[ApiKey] | None = None

    def live(self) -> Sequence[ApiKey]:
        if self._live is None:
            now = system_clock()
            self._live = [key for key in _read(self._store_url) if key.is_good(now)]
        return self._live


def _read(store_url: str) -> Sequence[ApiKey]:
    """Return the keys of the store. Nothing is created or migrated."""
    if scheme_of(store_url) in MONGO_SCHEMES:
        return _read_mongo(store_url)
    return _read_sqlite(store_url)


def _read_sqlite(store_url: str) -> Sequence[ApiKey]:
    from guidsvc.doctor.backends.sqlite import read
    from guidsvc.store.sqlite.store import path_of_url

    path = path_of_url(store_url)
    return read(path, partial(_keys_in, path)) if path.exists() else []


def _keys_in(path: Path, connection: sqlite3.Connection) -> Sequence[ApiKey]:
    from guidsvc.store.sqlite.engine import row_of
    from guidsvc.store.sqlite.schema import MIGRATIONS, identify
    from guidsvc.store.sqlite.tables import KEYS, LIST_KEYS

    if not identify(connection, path, newest=len(MIGRATIONS)):
        return []
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != len(MIGRATIONS):
        raise Closed(ok(f"not read: the store has the schema {version}; see store.file"))
    with closing(connection.execute(LIST_KEYS, ("", MAX_KEYS))) as rows:
        return [row_of(KEYS, str(row[0]), row) for row in rows]


def _read_mongo(store_url: str) -> Sequence[ApiKey]:
    from guidsvc.doctor.backends.mongo import database
    from guidsvc.store.mongo.documents import model_of
    from guidsvc.store.mongo.store import KEYS

    with database(store_url) as connected:
        return [model_of(ApiKey, document) for document in connected[KEYS].find().sort("_id", 1).limit(MAX_KEYS)]


def _jwks(settings: Settings) -> Finding:
    asyncio.run(_open_jwks(settings))
    return ok(f"{redact(settings.jwt_jwks)} holds a usable key")


async def _open_jwks(settings: Settings) -> None:
    """Open the verifier as the service does; StartError if the key set cannot be read, or has no usable key."""
    policy = JwtTrustPolicy(settings.jwt_issuer, settings.jwt_audience, settings.jwt_owner_claim)
    async with open_jwt_verifier(settings.jwt_jwks, policy, fetch=fetch, clock=system_clock):
        pass


def _exist(keys: _Keys, *, has_tokens: bool) -> Finding:
    number = len(keys.live())
    if not number and has_tokens:
        raise Closed(ok("no API keys; callers use tokens"))
    if not number:
        return fail(
            "access control is on, but there is no valid key: every request is rejected",
            f"create one: `{runnable('keys create')} --owner NAME`, with --new-store if the store does not exist",
        )
    return ok(counted(number, "valid key"))


def _admin(keys: _Keys) -> Finding:
    admins = [key.id for key in keys.live() if _is_admin(key)]
    if not admins:
        return warn(
            "no key has the scope admin: nobody can manage keys over HTTP",
            f"create one: `{runnable('keys create')} --owner NAME --scopes admin --expires 90d`",
        )
    return ok(f"{counted(len(admins), 'key')} with the scope admin")


def _expiry(keys: _Keys) -> Finding:
    now = time.time()
    ending = [key.id for key in keys.live() if key.expire is not None and key.expire < now + SOON_SECONDS]
    if ending:
        return warn(
            f"{_named(ending)} {'expires' if len(ending) == 1 else 'expire'} within 14 days",
            "create keys for their users, and replace them in time",
        )
    return ok("no key expires within 14 days")


def _endless(keys: _Keys) -> Finding:
    endless = [key.id for key in keys.live() if _is_admin(key) and key.expire is None]
    if endless:
        return warn(
            f"{_named(endless)} may do everything, and never {'expires' if len(endless) == 1 else 'expire'}",
            f"create one with --expires, then `{runnable('keys revoke')} {endless[0]}`",
        )
    return ok("no key with the scope admin is valid for ever")


def _is_admin(key: ApiKey) -> bool:
    return "admin" in key.scopes.split()


def _named(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return f"the {'key' if len(ids) == 1 else 'keys'} {', '.join(ids[:SHOWN])}{more}"
