"""Notification of a service manager, such as systemd: the state of the service, and a watchdog of its event loop.

The protocol is that of sd_notify(3): https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html. The
service manager names a datagram socket in NOTIFY_SOCKET, and in WATCHDOG_USEC the microseconds without a message after
which it restarts the service.

    READY=1       the service serves
    RELOADING=1   it loads its certificate again, or replaces its workers; READY=1 follows
    STOPPING=1    it shuts down
    WATCHDOG=1    its event loop runs; sent twice in that time
"""

import asyncio
import os
import re
import socket
import time

import structlog

from guidsvc.telemetry.outage import Outage

SEND_SECONDS = 0.5
"""Timeout of a change of state, if the queue of the service manager is full. The watchdog does not wait."""

_SOCKET, _USEC, _PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
_log = structlog.get_logger(__name__)


class ServiceManager:
    """The service manager at a socket; without an address, nothing is sent.

    An address that begins with `@` is in the abstract namespace. With `watchdog_seconds`, the watchdog starts at the
    first `ready`.
    """

    def __init__(self, address: str = "", watchdog_seconds: float = 0.0) -> None:
        self.watchdog_seconds = watchdog_seconds if address else 0.0
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._outage = Outage(_log, "service manager cannot be notified", "service manager notified again")
        self._is_watched = False

    @classmethod
    def from_environment(cls) -> "ServiceManager":
        """Return the service manager that the environment names, and remove its variables.

        Child processes must not have them: the service manager accepts messages of the main process only.
        """
        address, usec, pid = (os.environ.pop(name, "") for name in (_SOCKET, _USEC, _PID))
        is_for_this_process = pid in {"", str(os.getpid())}
        is_number = re.fullmatch("[0-9]{1,18}", usec) is not None
        return cls(address, int(usec) / 1e6 if is_number and is_for_this_process else 0.0)

    def ready(self) -> None:
        """Report that the service serves, or that its reload has ended. Needs a running event loop."""
        self._send("READY=1", SEND_SECONDS)
        if self.watchdog_seconds and not self._is_watched:
            self._is_watched = True
            self._feed_watchdog(asyncio.get_running_loop())

    def reloading(self) -> None:
        """Report that a reload has begun."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", SEND_SECONDS)

    def stopping(self) -> None:
        """Report that the shutdown has begun."""
        self._send("STOPPING=1", SEND_SECONDS)

    def _feed_watchdog(self, loop: asyncio.AbstractEventLoop) -> None:
        """Report, now and periodically, that the event loop runs. A loop that hangs does not."""
        self._send("WATCHDOG=1", 0)
        loop.call_later(self.watchdog_seconds / 2, self._feed_watchdog, loop)

    def _send(self, message: str, timeout: float) -> None:
        """Send a message. A failure is logged, and does not stop the service."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(timeout)
                connection.connect(self._address)
                connection.send(message.encode())
        except OSError as error:
            self._outage.begin(error=str(error))
        else:
            self._outage.end()
