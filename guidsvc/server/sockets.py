"""Listening sockets: an address and port, or a Unix socket."""

import socket as socket_module
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from errno import EACCES, EADDRINUSE, EADDRNOTAVAIL, ECONNREFUSED
from pathlib import Path
from socket import AF_UNIX, IPPROTO_TCP, SOCK_STREAM, gaierror, socket

from tornado.netutil import bind_sockets

from guidsvc.errors import StartError, write_fault
from guidsvc.program import make_hint

BACKLOG = 4096
"""Maximum connections waiting to be accepted; the system may lower it (net.core.somaxconn)."""
KERNEL_BYTES = 128 * 1024
"""Maximum unsent bytes of a response in the kernel (TCP_NOTSENT_LOWAT). By default the kernel takes megabytes."""

_REMEDIES: Mapping[int | None, str] = {
    EADDRINUSE: "; stop what listens there (ss -ltnp 'sport = :{port}' shows it), or use --port 0 for any free port",
    EACCES: "; use a --port from 1024 on, which needs no privileges",
    EADDRNOTAVAIL: "; use an address of this host as --host",
}
"""Remedies for an address that cannot be used, by the error."""

_NOTSENT_LOWAT: int | None = getattr(socket_module, "TCP_NOTSENT_LOWAT", None)


@contextmanager
def open_listeners(host: str, port: int, unix_socket: str | None, *, slots: int = 1) -> Iterator[list[list[socket]]]:
    """Listen on the Unix socket if given, else on the address. Raise StartError if that fails.

    Yields the sockets of each slot. On an address, each slot has its own, and the system distributes connections
    (SO_REUSEPORT). A Unix socket is shared by all slots.
    """
    with ExitStack() as stack:
        try:
            if unix_socket is None:
                shares = _on_address(stack, host, port, slots)
            else:
                shares = [[_unix_socket(stack, Path(unix_socket))]] * slots
        except (OSError, UnicodeError, ValueError) as error:
            setting = (
                f"host, port: cannot listen on {host}:{port}" if unix_socket is None else f"unix_socket: {unix_socket}"
            )
            raise StartError(f"{setting}: {_fault(error, port, is_path=unix_socket is not None)}") from error
        yield shares


def _fault(error: Exception, port: int, *, is_path: bool) -> str:
    """Return why an address or a path cannot be used, and the remedy."""
    if isinstance(error, OSError) and is_path:
        return write_fault(error)
    number = EADDRNOTAVAIL if isinstance(error, gaierror) else getattr(error, "errno", None)
    remedy = _REMEDIES.get(number, "").format(port=port) + (make_hint("--port", "0") if number == EADDRINUSE else "")
    return f"{getattr(error, 'strerror', None) or error}{remedy}"


@contextmanager
def inherit_sockets(descriptors: Sequence[int]) -> Iterator[list[socket]]:
    """Listen on sockets that another process has bound."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket(fileno=descriptor)) for descriptor in descriptors]
        for each in sockets:
            each.setblocking(False)
            each.set_inheritable(False)
            each.listen(BACKLOG)  # it may be bound but not listening
        yield sockets


def _on_address(stack: ExitStack, host: str, port: int, slots: int) -> list[list[socket]]:
    """Listen for each slot on the same port. A first exclusive bind fails if another process has it, shared or not."""
    exclusive = _bind(stack, host, port)
    if slots == 1:
        return [exclusive]
    port = exclusive[0].getsockname()[1]
    for each in exclusive:
        each.close()
    return [_bind(stack, host, port, shared=True) for _ in range(slots)]


def _bind(stack: ExitStack, host: str, port: int, *, shared: bool = False) -> list[socket]:
    sockets = [stack.enter_context(each) for each in bind_sockets(port, host, backlog=BACKLOG, reuse_port=shared)]
    for each in sockets:
        if _NOTSENT_LOWAT is not None:
            each.setsockopt(IPPROTO_TCP, _NOTSENT_LOWAT, KERNEL_BYTES)  # connections inherit it
    return sockets


def _unix_socket(stack: ExitStack, path: Path) -> socket:
    """Listen on a Unix socket, replacing a stale one.

    The umask decides who may connect. On exit the file is removed, unless another process has replaced it.
    """
    listener = stack.enter_context(socket(AF_UNIX, SOCK_STREAM))
    if path.is_socket():
        _reject_live(path)
        path.unlink()
    listener.setblocking(False)
    listener.bind(str(path))
    stack.callback(_unlink, path, _identity(path))
    listener.listen(BACKLOG)
    return listener


def _reject_live(path: Path) -> None:
    """Raise StartError if a process listens on the Unix socket."""
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
