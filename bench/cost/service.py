"""The measured service as a process of its own, and the connection over which it is measured."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.cost import paths
from bench.cost.paths import Server
from bench.running import ROOT
from guidsvc.domain import api_key
from guidsvc.domain.caller import SCOPES
from guidsvc.store import open_keys
from tests.support.certificates import Certificate

_HOST = "127.0.0.1"
_SETTLED_SECONDS = 0.001
_RESPONSE_SECONDS = 45.0
_FENCE_ON = b'guidsvc_fence{mode="on"} 1'


class Service:
    """A service under measurement. `lines` are the header lines that every request must have."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path, certificate: Certificate | None) -> None:
        self.process = process
        self.folder = folder
        self.lines: list[str] = []
        port = self._read_response()
        self._connection = socket.create_connection((_HOST, port), timeout=_RESPONSE_SECONDS)
        if certificate is not None:
            self._connection = certificate.trusting().wrap_socket(self._connection, server_hostname=_HOST)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def command(self, name: str) -> Any:
        """Send a command to the process; return its response (see `bench.cost.worker`)."""
        if self.process.stdin is None:
            raise RuntimeError("the service has no standard input")
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return self._read_response()

    def send(self, request: bytes, *, expects_error: bool = False) -> bytes:
        """Send a request, and return the body of its response."""
        self._connection.sendall(request)
        with HTTPResponse(self._connection, method=request.partition(b" ")[0].decode()) as response:
            response.begin()
            body = response.read()
        is_error = response.status >= 400 or b'"problem"' in body  # noqa: PLR2004  # any error
        if is_error and not expects_error:
            raise RuntimeError(f"{request[:100]!r}: {response.status} {body[:1000]!r}")
        return body

    def settle(self) -> None:
        """Wait until the process is idle: a thread may still work after the response."""
        previous = -1
        while (now := self.command("total")) != previous:
            previous = now
            time.sleep(_SETTLED_SECONDS)

    def _read_response(self) -> Any:
        if self.process.stdout is None or not (line := self.process.stdout.readline()):
            raise RuntimeError(f"the service has ended: {(self.folder / 'log').read_text()}")
        return json.loads(line)


@contextmanager
def measured_service(server: Server, redis_url: str, mode: str, prefix: Sequence[str] = ()) -> Iterator[Service]:
    """Run a service with its records, until the end of the block; time is stopped. `prefix` begins its command."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        settings = [setting.format(redis=redis_url) for setting in server.settings]
        certificate = Certificate(folder) if server.has_tls else None
        if certificate is not None:
            settings += certificate.flags
        program = [sys.executable, "-m", "bench.cost.worker", mode, "--port", "0", *settings]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"} | dict(server.environment)
        with (folder / "log").open("w") as log, subprocess.Popen(
            [*prefix, *program], cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log, text=True,
        ) as process:  # fmt: skip
            try:
                with closing(Service(process, folder, certificate)) as service:
                    _prepare(service, server)
                    yield service
            finally:
                process.kill()


def _prepare(service: Service, server: Server) -> None:
    if server.has_key:
        service.lines = [f"Authorization: Bearer {asyncio.run(_create_key(service.folder))}"]
    service.send(paths.present(service.lines))
    while server.has_redis and _FENCE_ON not in service.send(paths.message("GET", "/metrics", service.lines)):
        time.sleep(0.05)
    service.command("stop-time")


async def _create_key(folder: Path) -> str:
    key, text = api_key.generate("bench", SCOPES[:3], time.time_ns() // 1_000_000)
    async with open_keys(f"sqlite:///{folder / 'guidsvc.db'}") as stored_keys:
        await stored_keys.swap(None, key)
    return text
