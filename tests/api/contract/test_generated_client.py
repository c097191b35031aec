"""A client that is generated from `/openapi.json` alone can use the service."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.backing_servers import ROOT, Service, service

MYPY_CACHE = ROOT / ".mypy_cache" / "generated_client"
"""What mypy found in the libraries of the client in an earlier run."""

CONFIG = """
post_hooks: []
content_type_overrides:
  application/x-ndjson: application/octet-stream
"""
"""Batches of lines are sent as bytes. The generated code is not laid out: that would need Ruff on PATH."""
GENERATE = ["-m", "openapi_python_client", "generate", "--meta", "none"]
GENERATE += ["--config", "client.yml", "--fail-on-warning"]
USE = """
import sys
from registry import Client
from registry.api.guids import create_guid, delete_guid, get_guid, list_guids, patch_guid
from registry.models import Creation, NotFoundProblem, Patch, PreconditionFailedProblem

with Client(base_url=sys.argv[1], raise_on_unexpected_status=True) as client:
    created = create_guid.sync(client=client, body=Creation.from_dict({"user": "A", "metadata": {"n": 1}}))
    assert [(each.guid, each.user) for each in list_guids.sync(client=client, user="A").items] == [(created.guid, "A")]
    read = get_guid.sync_detailed(created.guid, client=client)
    assert read.parsed == created
    known = read.headers["ETag"]
    patch = Patch.from_dict({"user": "B", "metadata": None})
    patched = patch_guid.sync(created.guid, client=client, body=patch, if_match=known)
    assert (patched.user, patched.expire, "metadata" in patched.to_dict()) == ("B", created.expire, False)
    failed = delete_guid.sync(created.guid, client=client, if_match=known)
    assert isinstance(failed, PreconditionFailedProblem) and failed.record == patched
    assert delete_guid.sync_detailed(created.guid, client=client).status_code == 204
    assert isinstance(get_guid.sync(created.guid, client=client), NotFoundProblem)
"""


def python(folder: Path, *arguments: str) -> None:
    process = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr


def generate(folder: Path, running: Service, name: str = "registry") -> None:
    """Generate a client of this name, without a warning."""
    (folder / "client.yml").write_text(CONFIG)
    python(folder, *GENERATE, "--output-path", name, "--url", f"{running.url}/openapi.json")


@pytest.mark.slow
def test_generated_client_creates_lists_patches_and_deletes(tmp_path: Path) -> None:
    with service(tmp_path) as running:
        generate(tmp_path, running)
        (tmp_path / "use.py").write_text(USE)
        python(tmp_path, "use.py", running.url)


@pytest.mark.slow
@pytest.mark.timeout(300)  # mypy reads the libraries of the client, too
def test_generated_client_is_typed_strictly(tmp_path: Path) -> None:
    """The documents with access control and without it differ. Once for both: mypy takes seconds to start."""
    for access in ("off", "keys"):
        with service(tmp_path, "--access", access) as running:
            generate(tmp_path, running, f"registry_{access}")
    python(tmp_path, "-m", "mypy", "--strict", "--cache-dir", str(MYPY_CACHE), "registry_off", "registry_keys")
