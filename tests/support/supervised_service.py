"""The service with several workers under a supervisor."""

import http.client
import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.support.backing_servers import Service, service, wait_until
from tests.support.forked_program import PROGRAM

LAST_LINE_OF_BANNER = "curl"


@contextmanager
def workers(
    folder: Path,
    redis_url: str,
    *options: str,
    count: int = 2,
    program: Path = PROGRAM,
    is_forked: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """Run the service with several workers within the block, which starts once all of them serve.

    `is_forked` is about the supervisor and the workers alike.
    """
    all_options = [
        "--workers",
        str(count),
        "--cache-url",
        redis_url,
        "--log-format",
        "json",
        "--no-access-log",
        *options,
    ]
    with service(folder, *all_options, program=program, is_forked=is_forked, environment=environment) as running:
        wait_until(lambda: LAST_LINE_OF_BANNER in running.log.read_text(), "the banner", running.log)
        yield running


def lines_of(running: Service, event: str) -> list[dict[str, Any]]:
    """Return the log lines with this event."""
    lines = [line for line in running.log.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
    return [line for line in map(json.loads, lines) if line["event"] == event]


def is_responding(running: Service) -> bool:
    """Return whether a new connection gets a response from any worker."""
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)) as connection:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200


def replace_workers(running: Service) -> None:
    """Replace the workers; return when the new ones serve."""
    reloads_before = len(lines_of(running, "reload finished"))
    running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(lines_of(running, "reload finished")) > reloads_before, "new workers", running.log)
