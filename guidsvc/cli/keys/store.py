"""Administration of the keys in a store, whether the service runs or not.

A store is created only with `--new-store`, so a misspelt path is an error.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from guidsvc.cli import output
from guidsvc.cli.exit_codes import CONFLICT, FAILED, NOT_FOUND, TRY_AGAIN, UNKNOWN, CommandFailed
from guidsvc.cli.keys.administration import Document, KeyWithSecret, NewKey
from guidsvc.cli.store_settings import load_settings
from guidsvc.domain.api_key import KeyFilter
from guidsvc.errors import (
    GuidsvcError,
    InvalidRequest,
    KeyNotActive,
    NoStore,
    NoSuchKey,
    OutcomeUnknown,
    StartError,
    Unavailable,
)
from guidsvc.monitoring.logs import log_config
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import runnable
from guidsvc.runtime.clock import system_clock
from guidsvc.services.key_service import Issued, KeyService
from guidsvc.store import location_of, open_keys

_Result = TypeVar("_Result")
_Work = Callable[[KeyService], Coroutine[Any, Any, _Result]]


class StoreKeys:
    """The keys in a store. Each call opens it, and says on standard error where it is.

    `can_create` says whether the command has the option --new-store, and `new_store` whether it is set.
    """

    flags: Sequence[str] = ()

    def __init__(self, store_url: str | None, *, can_create: bool = False, new_store: bool = False) -> None:
        self._store_url, self._new_store = store_url, new_store
        self._hint = ", or create it with --new-store" if can_create else " with --store-url"

    def create(self, key: NewKey) -> KeyWithSecret:
        """Create a key."""

        async def work(service: KeyService) -> KeyWithSecret:
            limits, expire = key.limits, key.expire
            created = await service.create(key.owner, key.scopes, expire=expire, note=key.note, limits=limits)
            return _with_secret(service, created)

        return self._execute(work)

    def list(self, wanted: KeyFilter) -> Sequence[Document]:
        """Return the matching keys, ordered by id."""

        async def work(service: KeyService) -> Sequence[Document]:
            return [service.describe(key) async for key in service.walk(wanted)]

        return self._execute(work)

    def get(self, key_id: str) -> Document:
        """Return a key."""

        async def work(service: KeyService) -> Document:
            return service.describe(await service.get(key_id))

        return self._execute(work)

    def set_note(self, key_id: str, note: str | None) -> Document:
        """Set the note of a key, or remove it; return the key."""

        async def work(service: KeyService) -> Document:
            return service.describe(await service.set_note(key_id, note))

        return self._execute(work)

    def revoke(self, key_id: str) -> Document:
        """Revoke a key, and return it."""

        async def work(service: KeyService) -> Document:
            return service.describe(await service.revoke(key_id))

        return self._execute(work)

    def rotate(self, key_id: str, overlap: int) -> KeyWithSecret:
        """Give a key a new secret. The current one stays valid for `overlap` seconds."""

        async def work(service: KeyService) -> KeyWithSecret:
            return _with_secret(service, await service.rotate(key_id, overlap=overlap))

        return self._execute(work)

    def _execute(self, work: "_Work[_Result]") -> _Result:
        """Run the work on the store; raise StartError, with a one-line message, if it fails."""
        settings = load_settings(self._store_url)
        log_config.configure(settings.log_level, settings.log_format)
        try:
            return asyncio.run(self._run(settings.store_url, work))
        except NoStore as error:
            raise StartError(f"{error}: name the store of the service{self._hint}") from error
        except StartError:
            raise
        except GuidsvcError as error:
            raise CommandFailed(_error_text(error), exit_code(error)) from error

    async def _run(self, url: str, work: "_Work[_Result]") -> _Result:
        async with open_keys(url, create=self._new_store) as api_keys:
            output.tell(f"store: {escape(location_of(url))}")
            return await work(KeyService(api_keys, clock=system_clock))


def _with_secret(service: KeyService, issued: Issued) -> KeyWithSecret:
    return KeyWithSecret(service.describe(issued.key), issued.text)


def _error_text(error: GuidsvcError) -> str:
    match error:
        case InvalidRequest():
            return "; ".join(f"{fault.pointer.lstrip('/')} {fault.detail}" for fault in error.faults)
        case OutcomeUnknown():
            return f"outcome unknown: {error}; check it with `{runnable('keys list')}`"
        case NoSuchKey():
            return f"{error} `{runnable('keys list')}` shows the ids of all keys."
        case _:
            return str(error)


def exit_code(error: GuidsvcError) -> int:
    """Return the exit code of a command that failed with this error of the store or of the key service."""
    match error:
        case NoSuchKey():
            return NOT_FOUND
        case KeyNotActive():
            return CONFLICT
        case OutcomeUnknown():
            return UNKNOWN
        case Unavailable():
            return TRY_AGAIN
        case _:
            return FAILED
