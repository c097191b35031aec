"""`guidsvc demo`: sample records in a service, and their removal."""

import asyncio
import json
import re
import shlex
import urllib.request
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from guidsvc.cli.local.demo import KINDS, PER_REQUEST, USER, _hint
from guidsvc.config import Settings
from tests.support.backing_servers import Service, free_port, pdapt, service
from tests.support.certificates import Certificate
from tests.support.scripted_server import response, scripted_server


def list_demo_records(running: Service, state: str) -> list[dict[str, Any]]:
    """Return the records of the demo in this state."""
    query = f"{running.url}/guid?user={USER.replace(' ', '%20')}&state={state}&limit=500"
    with urllib.request.urlopen(query) as response:
        items: list[dict[str, Any]] = json.load(response)["items"]
    return items


def test_records_of_all_kinds_are_created_and_removed(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        at = ("--port", str(running.port))
        result = pdapt(tmp_path, "demo", *at, "--count", "16")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == {kind.name: 3 if at < 2 else 2 for at, kind in enumerate(KINDS)}
        list_command, remove_command = re.findall(r"(?:look at|remove) them: python pdapt\.py (.*)\n", result.stderr)
        assert json.loads(pdapt(tmp_path, *shlex.split(list_command), "--limit", "1").stdout)["user"] == USER
        assert remove_command == f"demo --remove --port {running.port}"
        assert (
            len(list_demo_records(running, "all")),
            len(list_demo_records(running, "live")),
            len(list_demo_records(running, "expired")),
        ) == (
            16,
            12,
            4,
        )
        assert pdapt(tmp_path, "demo", *at, "--count", "1", "--quiet").stderr == ""

        removal = pdapt(tmp_path, "demo", "--remove", *at)
        assert (removal.returncode, json.loads(removal.stdout)) == (0, {"removed": 17})
        assert list_demo_records(running, "all") == []
        assert json.loads(pdapt(tmp_path, "demo", "--remove", *at).stdout) == {"removed": 0}


@pytest.mark.parametrize(("pages", "requests"), [("a", 2), ("ab", 3)])
async def test_list_that_would_never_end_is_a_failure(tmp_path: Path, pages: str, requests: int) -> None:
    """Each page names the same next one, or two pages name each other."""
    following = cycle(pages)
    async with scripted_server(lambda _: response(200, b'{"items":[],"next":"%c"}' % ord(next(following)))) as server:
        port = server.url.rpartition(":")[2]
        removal = await asyncio.to_thread(pdapt, tmp_path, "demo", "--remove", "--port", port)
    assert (removal.returncode, removal.stdout) == (1, "")
    assert "would never end" in removal.stderr
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[" * 5000, ()),
        (b"[]", ()),
        (b"{}", ()),
        (b'{"a": 1}', ()),
        (b'{"results": 1}', ()),
        (b'{"results": []}', ()),
        (b'{"results": [{"problem": "a", "status": 1}]}', ()),
        (b'{"items": [1], "next": null}', ("--remove",)),
        (b'{"items": [{"guid": 1}], "next": 1}', ("--remove",)),
    ],
)
async def test_response_of_another_program_is_recognized(tmp_path: Path, body: bytes, words: tuple[str, ...]) -> None:
    async with scripted_server(lambda _: response(200, body)) as server:
        port = server.url.rpartition(":")[2]
        done = await asyncio.to_thread(pdapt, tmp_path, "demo", *words, "--port", port)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"demo: {server.url}: another program answers; name the --port of the service\n")


def test_many_records_take_several_requests(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        at = ("--port", str(running.port))
        result = pdapt(tmp_path, "demo", *at, "--count", str(PER_REQUEST + 1))
        assert sum(json.loads(result.stdout).values()) == PER_REQUEST + 1
        assert json.loads(pdapt(tmp_path, "demo", "--remove", *at).stdout) == {"removed": PER_REQUEST + 1}


def test_key_is_needed_with_access_control(tmp_path: Path, certificate: Certificate) -> None:
    """Over TLS the key is sent only to the holder of the certificate."""
    key = pdapt(tmp_path, "keys", "create", "--new-store", "--owner", "a").stdout.strip()
    with service(tmp_path, "--access", "keys", *certificate.flags) as running:
        at = ("--port", str(running.port), *certificate.flags)
        rejected = pdapt(tmp_path, "demo", *at, GUIDSVC_KEY="")
        assert rejected.returncode == 5
        assert ": Authentication is required. To create a key, run with" in rejected.stderr
        assert rejected.stderr.endswith("; set GUIDSVC_KEY to a key with the scopes read, write and delete\n")
        rejected = pdapt(tmp_path, "demo", *at, GUIDSVC_KEY=f"{key}0")
        assert (rejected.returncode, ".;" in rejected.stderr) == (5, False)
        assert pdapt(tmp_path, "demo", "--remove", *at, GUIDSVC_KEY=f"{key}0").returncode == 5
        reading = pdapt(tmp_path, "keys", "create", "--owner", "a", "--scopes", "read").stdout.strip()
        assert pdapt(tmp_path, "demo", *at, GUIDSVC_KEY=reading).returncode == 5
        assert pdapt(tmp_path, "demo", *at, GUIDSVC_KEY=key).returncode == 0

        certificate.issue()  # the running service does not have the new certificate
        rejected = pdapt(tmp_path, "demo", *at, GUIDSVC_KEY=key)
        assert rejected.returncode == 6
        assert "its certificate is from an authority that this host does not trust" in rejected.stderr
        assert "name the --tls-cert with which the service was started" in rejected.stderr


def test_absent_service_is_reported_with_what_to_do(tmp_path: Path) -> None:
    result = pdapt(tmp_path, "demo", "--port", str(free_port()))

    assert (result.returncode, result.stdout) == (6, "")
    assert result.stderr.endswith(
        ": connection refused: nothing listens there; start the service, or name its --port\n"
    )


@pytest.mark.parametrize(
    "arguments", [("--count", "0"), ("--count", "10001"), ("--count", "many"), ("--count", "0" * 19 + "1" + "9" * 5000)]
)
def test_count_out_of_range_is_a_usage_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = pdapt(tmp_path, "demo", *arguments)

    assert result.returncode == 2
    assert "argument --count: must be a whole number from 1 to 10000" in result.stderr


def test_service_on_a_unix_socket_is_found(tmp_path: Path) -> None:
    at = ("--unix-socket", str(tmp_path / "s"))
    with service(tmp_path):
        assert pdapt(tmp_path, "demo", *at).stderr.endswith("; start the service, or name its --unix-socket\n")


def test_hints_name_the_unix_socket() -> None:
    settings = Settings(_env_file=None, unix_socket="s")  # type: ignore[call-arg]
    list_hint, remove_hint = _hint(settings, ["--unix-socket", "s"]).splitlines()

    assert list_hint == "look at them: curl --unix-socket s 'http://localhost/guid?user=guidsvc%20demo'"
    assert remove_hint.endswith("demo --remove --unix-socket s")
