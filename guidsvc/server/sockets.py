"""What is listened on: an address and port, or a Unix socket."""

import socket as socket_module
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from errno import ECONNREFUSED
from pathlib import Path
from socket import AF_UNIX, IPPROTO_TCP, SOCK_STREAM, socket

from tornado.netutil import bind_sockets

from guidsvc.errors import StartError

BACKLOG = 4096
"""So many connections may wait to be accepted, as far as the system lets them (net.core.somaxconn)."""
KERNEL_BYTES = 128 * 1024
"""Bytes of an answer that the kernel takes before the client has room for them. By default it takes megabytes."""

_NOTSENT_LOWAT: int | None = getattr(socket_module, "TCP_NOTSENT_LOWAT", None)


@contextmanager
def open_listeners(host: str, port: int, unix_socket: str | None, *, slots: int = 1) -> Iterator[list[list[socket]]]:
    """Listen, inside, on the Unix socket if one is named, else on the address; StartError if that cannot be.

    Yields the sockets of each slot: of an address they are its own, and the system deals connections out to them
    (SO_REUSEPORT); a Unix socket is everybody's.
    """
    with ExitStack() as stack:
        try:
            if unix_socket is None:
                shares = _on_address(stack, host, port, slots)
            else:
                shares = [[_unix_socket(stack, Path(unix_socket))]] * slots
        except (OSError, UnicodeError, ValueError) as error:
            what = (
                f"host, port: cannot listen on {host}:{port}" if unix_socket is None else f"unix_socket: {unix_socket}"
            )
            raise StartError(f"{what}: {getattr(error, 'strerror', None) or error}") from error
        yield shares


@contextmanager
def inherit_sockets(descriptors: Sequence[int]) -> Iterator[list[socket]]:
    """Have sockets, inside, that another process has bound; listen on them."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket(fileno=descriptor)) for descriptor in descriptors]
        for each in found:
            each.setblocking(False)
            each.set_inheritable(False)
            each.listen(BACKLOG)  # it may be bound only
        yield found


def _on_address(stack: ExitStack, host: str, port: int, slots: int) -> list[list[socket]]:
    """Listen for each slot on the same port; nobody else may have it, not even one who would share it too."""
    alone = _bound(stack, host, port)
    if slots == 1:
        return [alone]
    port = alone[0].getsockname()[1]
    for each in alone:
        each.close()
    return [_bound(stack, host, port, shared=True) for _ in range(slots)]


def _bound(stack: ExitStack, host: str, port: int, *, shared: bool = False) -> list[socket]:
    bound = [stack.enter_context(each) for each in bind_sockets(port, host, backlog=BACKLOG, reuse_port=shared)]
    for each in bound:
        if _NOTSENT_LOWAT is not None:
            each.setsockopt(IPPROTO_TCP, _NOTSENT_LOWAT, KERNEL_BYTES)  # which connections inherit
    return bound


def _unix_socket(stack: ExitStack, path: Path) -> socket:
    """Listen on a Unix socket, in place of one that nobody listens on any more.

    Who may connect is the umask's to say. At the end the file is removed, unless it is another's by then.
    """
    listener = stack.enter_context(socket(AF_UNIX, SOCK_STREAM))
    if path.is_socket():
        _refuse_live(path)
        path.unlink()
    listener.setblocking(False)
    listener.bind(str(path))
    stack.callback(_unlink, path, _identity(path))
    listener.listen(BACKLOG)
    return listener


def _refuse_live(path: Path) -> None:
    """StartError if a process listens on a Unix socket."""
    with socket(AF_UNIX, SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            pass  # its backlog is full
        except OSError as error:
            if error.errno != ECONNREFUSED:
                raise
            return
    raise StartError(f"unix_socket: {path}: another process listens there; stop it first, or name another socket")


def _identity(path: Path) -> tuple[int, int]:
    stat = path.lstat()
    return stat.st_dev, stat.st_ino


def _unlink(path: Path, identity: tuple[int, int]) -> None:
    with suppress(FileNotFoundError):
        if _identity(path) == identity:
            path.unlink()
