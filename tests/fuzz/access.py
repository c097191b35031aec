"""Requests made up from `/openapi.json` with each kind of key: `python -m tests.fuzz.access` makes many.

There is a victim, whose records hold a canary, and whose GUIDs the requests are turned to (`tests/fuzz/hooks.py`).
Nobody but an admin may be told of the canary, or change what holds it; and every answer is as the document says.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from guidsvc.domain import api_key as keys
from guidsvc.domain.api_key import EXAMPLE_ID
from guidsvc.domain.caller import SCOPES
from guidsvc.domain.record import EXAMPLE_GUID
from guidsvc.store import open_keys
from tests.fuzz.__main__ import SEED, whole_document
from tests.support.backing_servers import ROOT, Service, service

CANARY = "canary-5d0c"
VICTIMS = [EXAMPLE_GUID, *(f"{place:032X}" for place in range(1, 4))]
KINDS = {
    "nobody": "",
    "reader": "read",
    "writer": "write",
    "another": "read write delete",
    "monitor": "monitor",
    "admin": "admin",
}
"""Who asks: with which scopes."""
PATHS = "^/(guid|events|keys|metrics)"
PHASES = "examples,coverage,fuzzing,stateful"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance"
CHECKS += ",response_schema_conformance"


class Found(NamedTuple):
    """What came of the requests of one kind of key."""

    conforms: bool
    told: list[str]
    """The requests that were answered with the canary."""
    changed: bool
    """Whether the victim's records are not what they were, or may not be."""
    said: str


CONFIG = Path(__file__).with_name("schemathesis.toml")


def fuzz(folder: Path, kind: str, cases: int, seed: int = SEED, phases: str = PHASES) -> Found:
    """Make so many requests of each operation that takes a key, with one of this kind, of a service started for it."""
    with service(folder, "--no-access-log", "--access", "keys", "--login-limit", "") as running:
        url = f"sqlite:///{folder / 'guidsvc.db'}"
        victim, asker = asyncio.run(_give(url, "victim", " ".join(SCOPES[:3]))), ""
        if KINDS[kind]:
            asker = asyncio.run(_give(url, "mallory", KINDS[kind]))
        before = _registered(running, victim)
        seen = folder / "seen"
        seen.touch()
        done = _run(running, folder, asker, "--max-examples", str(cases), "--seed", str(seed), "--phases", phases)
        told = seen.read_text().splitlines()
        changed = kind == "admin" or _read(running, victim) != before  # an admin may have revoked the victim's key
    return Found(done.returncode == 0, told, changed, done.stdout)


def _run(running: Service, folder: Path, key: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(ROOT / "tests" / "fuzz" / "schemathesis.toml"),
    ]
    command += ["run", *whole_document(running, folder), "--include-path-regex", PATHS, *more]
    command += ["--checks", CHECKS, *(["-H", f"Authorization: Bearer {key}"] if key else [])]
    told = {"FUZZ_CANARY": CANARY, "FUZZ_SEEN": str(folder / "seen"), "FUZZ_VICTIMS": " ".join(VICTIMS)}
    environment = os.environ | told | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, check=False, text=True, stdout=subprocess.PIPE)


async def _give(url: str, owner: str, scopes: str) -> str:
    """Make a key; and one with the id that the document takes for an example, of the victim."""
    made, text = keys.generate(owner, scopes.split(), time.time_ns() // 1_000_000)
    async with open_keys(url) as kept:
        assert await kept.swap(None, made)
        await kept.swap(None, made.model_copy(update={"id": EXAMPLE_ID, "owner": CANARY}))
    return text


def _registered(running: Service, key: str) -> bytes:
    """Register the victim's records; return what the victim reads of them."""
    body = json.dumps({"user": CANARY, "metadata": {"of": CANARY}, "expire": "4102444800"})
    for guid in VICTIMS:
        _ask(running, key, "PUT", f"/guid/{guid}", body)
    return _read(running, key)


def _read(running: Service, key: str) -> bytes:
    return _ask(running, key, "GET", "/guid?state=all&view=full&limit=500")


def _ask(running: Service, key: str, method: str, path: str, body: str | None = None) -> bytes:
    connection = HTTPConnection("127.0.0.1", running.port)
    connection.request(method, path, body, {"Authorization": f"Bearer {key}"})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    assert reply.status < 300, content
    return content


def main() -> int:
    """Make 500 of each with each kind of key, or as many as the first argument says; the second is the seed."""
    cases, seed = [*map(int, sys.argv[1:]), *(500, SEED)[len(sys.argv) - 1 :]]
    sound = True
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(Path(folder), kind, cases, seed)
        kept = kind == "admin" or not (found.told or found.changed)
        judged = "sound" if found.conforms and kept else "NOT sound"
        sound = sound and judged == "sound"
        print(found.said if not found.conforms else "", *found.told if not kept else (), sep="\n")
        print(
            f"{kind}: {'sound' if found.conforms and kept else 'NOT sound'}; {len(found.told)} answers with the canary"
        )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
