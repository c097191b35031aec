"""The side of the service manager: a datagram socket that receives the messages of sd_notify(3)."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.backing_servers import START_SECONDS, wait_until


class NotifySocket:
    """A bound datagram socket; `address` is the value of NOTIFY_SOCKET."""

    def __init__(self, bound: socket.socket, address: str) -> None:
        self.socket = bound
        self.address = address
        self.messages: list[str] = []

    def receive(self) -> list[str]:
        """Return all messages so far, without waiting."""
        while True:
            try:
                self.messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return self.messages

    def wait_for(self, message: str, count: int = 1, log: Path | None = None) -> None:
        """Wait until a message has arrived `count` times."""
        wait_until(lambda: self.receive().count(message) >= count, message, log, 2 * START_SECONDS)

    def states(self) -> list[str]:
        """Return the changes of state so far: the first line of each message except those of the watchdog."""
        return [each.partition("\n")[0] for each in self.receive() if each != "WATCHDOG=1"]

    def environment(self, watchdog_seconds: float | None = None) -> dict[str, str]:
        """Return the variables by which a service manager passes the socket to a service."""
        watchdog = {} if watchdog_seconds is None else {"WATCHDOG_USEC": str(round(watchdog_seconds * 1e6))}
        return {"NOTIFY_SOCKET": self.address} | watchdog


@contextmanager
def notify_socket(folder: Path, *, is_abstract: bool = False) -> Iterator[NotifySocket]:
    """Bind a socket at a path in this folder, or in the abstract namespace."""
    address = f"@guidsvc-test-{os.getpid()}-{folder.name}" if is_abstract else str(folder / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0{address[1:]}" if is_abstract else address)
        bound.setblocking(False)
        yield NotifySocket(bound, address)
