"""Files of the service are readable only by its own user, with any umask."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import FakeClock, Serving
from tests.support.factories import GUID
from tests.support.secured_service import KeyClient, SecuredService


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


def modes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}


async def test_created_files_are_private(
    serving: Serving, tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, url, audit_log = tmp_path / "metrics", f"sqlite:///{tmp_path}/a.db", tmp_path / "audit.log"
    metrics.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(metrics))
    async with serving(store_url=url, access="keys", audit_log=str(audit_log), public_metrics=True) as client:
        alice = KeyClient(client, await SecuredService(client, url, clock).create_key())
        version = 0
        while not (tmp_path / "audit.log").exists() or version < 2:
            version += 1
            assert (await alice.ask("PUT", f"/guid/{GUID}", json={"user": f"{version}"})).status in {200, 201}
        audit_log.rename(tmp_path / "audit.1")
        while not audit_log.exists():
            version += 1
            await alice.ask("PUT", f"/guid/{GUID}", json={"user": f"{version}"})
        assert (await client.get("/metrics")).status == 200
        file_modes = modes(tmp_path)
        assert {"a.db", "a.db-wal", "a.db-shm", "a.db-lock", "audit.log", "audit.1"} <= file_modes.keys()
        assert set(file_modes.values()) == {0o600}, file_modes
        assert set(modes(metrics).values()) == {0o600}
        assert len(modes(metrics)) >= 5


async def test_existing_file_keeps_its_mode(serving: Serving, tmp_path: Path) -> None:
    """An operator may share the file with a group."""
    url = f"sqlite:///{tmp_path}/a.db"
    async with serving(store_url=url):
        pass
    (tmp_path / "a.db").chmod(0o640)
    async with serving(store_url=url) as client:
        assert (await client.put(f"/guid/{GUID}", {"user": "a"})).status == 201
        assert modes(tmp_path)["a.db"] == 0o640
