"""`status` and `whoami`: the state of the service, and the own key."""

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from tests.support.backing_servers import Service, free_port, pdapt, service
from tests.support.certificates import Certificate
from tests.support.command_line import CommandLine
from tests.support.guarded_service import GuardedService
from tests.support.scripted_server import response, scripted_server

PARTS: dict[str, object] = {"store": "up", "cache": "down", "age_ms": 3, "workers": 2}
STATE: dict[str, object] = {"ready": True, "status": "degraded", **PARTS}


def test_ready_service_has_the_code_0(cli: CommandLine) -> None:
    done = cli.ok("status")

    assert done.json["status"] == "ready"
    assert cli.ok("status", "-o", "table").out.splitlines()[1].split() == ["status", "ready"]


def test_cache_that_is_off_is_named(tmp_path: Path) -> None:
    with service(tmp_path, "--cache-size", "0") as running:
        done = CommandLine(tmp_path, running.url).ok("status", "-o", "table")

    assert ["cache", "off"] in [line.split() for line in done.out.splitlines()]


@pytest.mark.parametrize(
    ("status", "changes", "code"), [(200, {}, 1), (503, {"ready": False, "status": "unavailable", "store": "down"}, 2)]
)
async def test_state_of_the_service_is_the_code(
    status: int, changes: dict[str, object], code: int, tmp_path: Path
) -> None:
    content = json.dumps({**STATE, **changes}).encode()
    async with scripted_server(lambda _: response(status, content)) as server:
        done = await asyncio.to_thread(CommandLine(tmp_path, server.url), "status")

    assert (done.code, done.json) == (code, {**STATE, **changes})


async def test_number_of_workers_is_in_the_table_if_it_is_known(tmp_path: Path) -> None:
    lines = []
    for state in (STATE, {name: STATE[name] for name in STATE if name != "workers"}):
        content = json.dumps(state).encode()
        async with scripted_server(lambda _, content=content: response(200, content)) as server:  # type: ignore[misc]
            done = await asyncio.to_thread(CommandLine(tmp_path, server.url), "status", "-o", "table")
        lines.append([line.split() for line in done.out.splitlines() if line.startswith("workers")])

    assert lines == [[["workers", "2"]], []]


def test_service_that_is_not_there_has_the_code_2(tmp_path: Path) -> None:
    done = CommandLine(tmp_path, f"http://127.0.0.1:{free_port()}")("status", "--wait", "1")

    assert (done.code, done.out) == (2, "")
    assert "no connection to http://127.0.0.1:" in done.err
    assert "Start the service with `guidsvc`" in done.err


async def test_status_waits_until_the_service_is_ready(tmp_path: Path) -> None:
    states: list[dict[str, object]] = [{"ready": False, "status": "unavailable"}, {}, {"status": "ready"}]

    def answer(_: object) -> bytes:
        return response(200, json.dumps(STATE | states.pop(0)).encode())

    async with scripted_server(answer) as server:
        done = await asyncio.to_thread(CommandLine(tmp_path, server.url), "status", "--wait", "60")
    assert (done.code, done.json["status"], states) == (0, "ready", [])


def test_status_waits_for_a_service_that_starts(tmp_path: Path) -> None:
    """The command runs before the service does."""
    with service(tmp_path) as started:
        started.stop()
        waiting = asyncio.run(_wait_beside(started, tmp_path))
    assert waiting.returncode == 0, waiting.stderr


async def _wait_beside(started: Service, folder: Path) -> subprocess.CompletedProcess[str]:
    task = asyncio.create_task(asyncio.to_thread(pdapt, folder, "status", "--wait", "60s", GUIDSVC_URL=started.url))
    await asyncio.sleep(0)
    await asyncio.to_thread(started.start)
    return await task


def test_whoami_without_access_control(cli: CommandLine) -> None:
    assert cli.ok("whoami").json["access"] == "off"


def test_whoami_shows_the_key_and_its_scopes(guarded: GuardedService, tmp_path: Path) -> None:
    line = CommandLine(tmp_path, guarded.service.url, GUIDSVC_KEY=guarded.key)
    table = line.ok("whoami", "-o", "table").out

    assert line.ok("whoami").json["owner"] == "operations"
    assert "operations" in table
    assert guarded.key not in table
    assert line("whoami", GUIDSVC_KEY="").code == 5


def test_certificate_of_an_own_authority_is_named_by_a_variable(tmp_path: Path) -> None:
    certificate = Certificate(tmp_path)
    with service(tmp_path, *certificate.flags) as running:
        cli = CommandLine(tmp_path, running.url.replace("http://", "https://"))
        refused = cli("status")
        trusted = cli("status", SSL_CERT_FILE=str(certificate.ca))

    assert refused.code == 2
    assert refused.err.endswith("Set SSL_CERT_FILE to the file with the certificate of that authority.\n")
    assert trusted.code == 0
