"""Random requests generated from `/openapi.json` with each kind of key.

The records of a victim contain a canary; hooks point the requests at these records (`tests/fuzz/hooks.py`).
Only an admin may see the canary or change these records, and every response must match the document.
"""

import asyncio
import json
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from guidsvc.domain import api_key as keys
from guidsvc.domain.api_key import EXAMPLE_ID
from guidsvc.domain.caller import SCOPES
from guidsvc.domain.record import EXAMPLE_GUID
from guidsvc.store import open_keys
from tests.fuzz.generated_requests import SEED, send_requests
from tests.support.backing_servers import Service, service

CANARY = "canary-5d0c"
VICTIMS = [EXAMPLE_GUID, *(f"{place:032X}" for place in range(1, 4))]
KINDS = {
    "nobody": "",
    "reader": "read",
    "writer": "write",
    "another": "read write delete monitor",
    "monitor": "monitor",
    "admin": "admin",
}
"""Scopes of each kind of caller."""
PATHS = "^/(guid|events|keys|metrics)"
PHASES = "examples,coverage,fuzzing,stateful"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance"
CHECKS += ",response_schema_conformance"


class FuzzResult(NamedTuple):
    """The result of the requests with one kind of key."""

    conforms: bool
    leaks: list[str]
    """Requests whose response contains the canary."""
    changed: bool
    """Whether the victim's records changed, or may have changed."""
    output: str


def fuzz(folder: Path, kind: str, cases: int, seed: int = SEED, phases: str = PHASES) -> FuzzResult:
    """Start a service; send `cases` requests per operation that needs a key, with a key of this kind."""
    with service(folder, "--no-access-log", "--access", "keys", "--login-limit", "") as running:
        url = f"sqlite:///{folder / 'guidsvc.db'}"
        victim, caller_key = asyncio.run(_create_key(url, "victim", " ".join(SCOPES[:3]))), ""
        if KINDS[kind]:
            caller_key = asyncio.run(_create_key(url, "mallory", KINDS[kind]))
        before = _create_records(running, victim)
        leak_file = folder / "leaks"
        leak_file.touch()
        process = _send_requests(running, folder, caller_key, cases, seed, phases)
        leaks = leak_file.read_text().splitlines()
        changed = (
            kind == "admin" or _read_records(running, victim) != before
        )  # an admin may have revoked the victim's key
    return FuzzResult(process.returncode == 0, leaks, changed, process.stdout)


def judge(folder: Path, kind: str, cases: int, seed: int = SEED) -> tuple[bool, str]:
    """Fuzz with this kind of key. Return whether that conforms and reveals and changes nothing, and the report."""
    result = fuzz(folder, kind, cases, seed)
    is_protected = kind == "admin" or not (result.leaks or result.changed)
    summary = f"{len(result.leaks)} responses with the canary"
    return result.conforms and is_protected, "\n".join(
        [result.output, *(() if is_protected else result.leaks), summary]
    )


def _send_requests(
    running: Service, folder: Path, key: str, cases: int, seed: int, phases: str
) -> subprocess.CompletedProcess[str]:
    options = ["--include-path-regex", PATHS, "--phases", phases, "--checks", CHECKS]
    options += ["-H", f"Authorization: Bearer {key}"] if key else []
    settings = {"FUZZ_CANARY": CANARY, "FUZZ_LEAKS": str(folder / "leaks"), "FUZZ_VICTIMS": " ".join(VICTIMS)}
    return send_requests(running, folder, cases, seed, *options, environment=settings)


async def _create_key(url: str, owner: str, scopes: str) -> str:
    """Create a key, and a key of the victim with the id that the document uses as an example."""
    key, text = keys.generate(owner, scopes.split(), time.time_ns() // 1_000_000)
    async with open_keys(url) as key_repository:
        assert await key_repository.swap(None, key)
        await key_repository.swap(None, key.model_copy(update={"id": EXAMPLE_ID, "owner": CANARY}))
    return text


def _create_records(running: Service, key: str) -> bytes:
    """Create the victim's records; return the list that the victim reads."""
    body = json.dumps({"user": CANARY, "metadata": {"of": CANARY}, "expire": "4102444800"})
    for guid in VICTIMS:
        _request(running, key, "PUT", f"/guid/{guid}", body)
    return _read_records(running, key)


def _read_records(running: Service, key: str) -> bytes:
    return _request(running, key, "GET", "/guid?state=all&view=full&limit=500")


def _request(running: Service, key: str, method: str, path: str, body: str | None = None) -> bytes:
    connection = HTTPConnection("127.0.0.1", running.port)
    connection.request(method, path, body, {"Authorization": f"Bearer {key}"})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    assert reply.status < 300, content
    return content
