"""The sync client of guidsvc_client with the interface of the async one: its methods run in threads."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self

from guidsvc_client import AsyncClient, Client

_IMMEDIATE = {"list", "stream", "put_many", "events", "lease", "pages", "with_options"}
"""Methods that return an object without a request."""
_END = object()
_THREADS = ThreadPoolExecutor(256)
"""More than the default, so that clients that wait for a lease leave a thread to its holder."""


async def _in_thread(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(function, *args, **options))


class InThread:
    """An object of the sync client. Results of its methods are awaited, or iterated over, like the async client's."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if name in _IMMEDIATE:
            return lambda *args, **options: InThread(member(*args, **options))
        if name == "keys":
            return InThread(member)
        return partial(_in_thread, member) if callable(member) and name != "check" else member

    async def __aiter__(self) -> AsyncIterator[Any]:
        iterator = iter(self._inner)
        while (item := await _in_thread(next, iterator, _END)) is not _END:
            yield item

    async def __aenter__(self) -> Self:
        await _in_thread(self._inner.__enter__)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await _in_thread(self._inner.__exit__, kind, error, trace)


KINDS = ["sync", "async"]


def client_of(kind: str, url: str, **options: Any) -> Any:
    """Return a client of a kind, with the interface of an AsyncClient."""
    return AsyncClient(url, **options) if kind == "async" else InThread(Client(url, **options))
