"""The total time limit of the head of a response.

httpx2 limits only the wait for each part of a response. A server that sends its head byte by byte would hold the sync
client for hours; the async client cancels the request. So the client's own connections end each wait when the time of
the whole request is over.
"""

import ssl
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpx2

from guidsvc_client.clock import clock

_ENDS_AT: ContextVar[float | None] = ContextVar("ends_at", default=None)


@contextmanager
def ending_at(ends_at: float) -> Generator[None]:
    """Within the block, limited connections raise TimeoutError at this time of `clock`."""
    token = _ENDS_AT.set(ends_at)
    try:
        yield
    finally:
        _ENDS_AT.reset(token)


def limited(client: httpx2.Client) -> httpx2.Client:
    """Limit the future connections of a client, also those to proxies, and return it.

    httpx2 has no public way to do so. Where its attributes have other names, there is no limit.
    """
    mounts: dict[Any, Any] = getattr(client, "_mounts", {})
    for transport in (getattr(client, "_transport", None), *mounts.values()):
        pool = getattr(transport, "_pool", None)
        backend = getattr(pool, "_network_backend", None)
        if pool is not None and backend is not None:
            pool._network_backend = _LimitedBackend(backend)  # noqa: SLF001  # see above
    return client


class _LimitedBackend:
    """A network backend of httpcore2 whose streams are limited."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(self, *arguments: Any, **options: Any) -> "_LimitedStream":
        return _LimitedStream(self._backend.connect_tcp(*arguments, **options))

    def connect_unix_socket(self, *arguments: Any, **options: Any) -> "_LimitedStream":
        return _LimitedStream(self._backend.connect_unix_socket(*arguments, **options))

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


class _LimitedStream:
    """A network stream of httpcore2 that waits no longer than the request may take."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        received: bytes = self._stream.read(max_bytes, _left(timeout))
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_LimitedStream":
        return _LimitedStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(timeout: float | None) -> float | None:
    """Return the seconds to wait, at most `timeout`. Raise TimeoutError if the time of the request is over."""
    ends_at = _ENDS_AT.get()
    if ends_at is None:
        return timeout
    left = ends_at - clock()
    if left <= 0:
        raise TimeoutError
    return left if timeout is None else min(timeout, left)
