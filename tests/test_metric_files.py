"""The files that processes share their metrics in: what is no such file, what is gone, and those of the dead."""

import asyncio
import os
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from guidsvc import metric_files
from guidsvc.meters import Meters
from guidsvc.web.exposition import Together, render
from guidsvc.web.watch import Watch
from tests.conftest import ExpectedLogs
from tests.test_metrics import Samples, read, value

LEFT_OUT = "guidsvc_metric_files_left_out_total"
ROUTE = {"route": "/guid", "method": "GET", "status": "200"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shared = tmp_path / "metrics"
    shared.mkdir()
    return shared


def counted(folder: Path, times: int = 1) -> Watch:
    """Return a process that has counted so many requests, and written that."""
    meters = Meters()
    for _ in range(times):
        meters.requests.done("/guid", "GET", 200, 0.02)
    watch = Watch(meters, folder=folder)
    watch.hand_over()
    return watch


async def seen(watch: Watch) -> Samples:
    return read((await watch.render(""))[0].decode())


def together(folder: Path) -> Samples:
    return read(render(Together(folder), "")[0].decode())


def _sparse(path: Path) -> None:
    path.write_bytes(b"")
    os.truncate(path, metric_files.MAX_BYTES + 1)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "counter_1.db": lambda path: path.write_bytes(b""),
    "counter_2.db": lambda path: path.write_bytes(b"abc"),
    "counter_3.db": lambda path: path.write_bytes(b"SQLite format 3\0" * 100),
    "counter_4.db": lambda path: path.write_bytes(struct.pack("iiI", 64, 0, 2**31) + b"x" * 100),
    "counter_5.db": lambda path: path.write_bytes(struct.pack("ii", 48, 0) + struct.pack("i4s16x", 4, b"what") * 2),
    "counter_6.db": lambda path: path.write_bytes(struct.pack("i", -9) + b"x" * 70_000),
    "counter_7.db": os.mkfifo,
    "counter_8.db": os.mkdir,
    "counter_9.db": lambda path: path.symlink_to("nowhere"),
    "histogram_1.db": _sparse,
    "gauge_livesum_1.db": lambda path: path.write_bytes(b""),
    "gauge.db": lambda path: path.write_bytes(b"\0" * 100),
    "guidsvc.db": lambda path: path.write_bytes(b"\0" * 65_536),
    "\udcff.db": lambda path: path.write_bytes(b"\0" * 65_536),
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_what_holds_no_metrics_is_left_out_and_counted(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    """And told once, however often somebody asks; another one is told, too."""
    expected_logs.add("files of metrics left out")
    watch = counted(folder, 3)
    assert value(await seen(watch), LEFT_OUT) == 0
    FOREIGN[name](folder / name)
    for _ in range(3):
        samples = await seen(watch)
        assert value(samples, "guidsvc_requests_total", **ROUTE) == 3
        assert value(samples, LEFT_OUT) == 1
    assert len([each for each in caplog.records if "left out" in each.getMessage()]) == 1
    (folder / "counter_77.db").write_bytes(b"")
    assert value(await seen(watch), LEFT_OUT) == 2
    watch.close()


async def test_a_file_of_ones_own_number_that_holds_none_is_made_anew(folder: Path) -> None:
    for content in (b"", b"abc", b"SQLite format 3\0" * 100, struct.pack("i", -9) + b"x" * 100):
        (folder / f"counter_{os.getpid()}.db").write_bytes(content)
        watch = counted(folder, 2)
        watch.close()
        assert value(together(folder), "guidsvc_requests_total", **ROUTE) == 2


@pytest.mark.parametrize("harm", ["removed", "emptied", "replaced"])
async def test_files_that_are_gone_are_made_anew(folder: Path, harm: str, expected_logs: ExpectedLogs) -> None:
    """With all that was counted since the process began."""
    expected_logs.add("files of metrics are gone")
    watch = counted(folder, 3)
    for path in folder.glob("*.db"):
        if harm == "emptied":
            os.truncate(path, 0)
        else:
            path.unlink()
        if harm == "replaced":
            path.write_bytes(b"foreign")
    for times in (4, 5):
        watch.meters.requests.done("/guid", "GET", 200, 0.02)
        assert value(await seen(watch), "guidsvc_requests_total", **ROUTE) == times
    watch.close()


def test_what_the_dead_have_counted_is_added_up(folder: Path) -> None:
    before: Samples = {}
    for pid in (90_001, 90_002, 90_003):
        counted(folder, 2).close()
        for path in folder.glob(f"*_{os.getpid()}.db"):
            path.rename(path.with_name(path.name.replace(str(os.getpid()), str(pid))))
        before = together(folder)
        metric_files.bury(folder, pid)
        assert {key: each for key, each in together(folder).items() if key[0].startswith("guidsvc_req")} == {
            key: each for key, each in before.items() if key[0].startswith("guidsvc_req")
        }
    assert value(before, "guidsvc_requests_total", **ROUTE) == 6
    assert sorted(path.name for path in folder.glob("[ch]*.db")) == ["counter_dead.db", "histogram_dead.db"]


async def test_who_reads_sees_the_dead_once_while_they_are_added_up(folder: Path) -> None:
    def bury_all() -> None:
        for pid in range(90_001, 90_030):
            metric_files.bury(folder, pid)

    counted(folder, 1).close()
    for pid in range(90_001, 90_030):
        for kind in ("counter", "histogram"):
            (folder / f"{kind}_{pid}.db").write_bytes((folder / f"{kind}_{os.getpid()}.db").read_bytes())
    burying = asyncio.create_task(asyncio.to_thread(bury_all))
    while not burying.done():
        assert value(await asyncio.to_thread(together, folder), "guidsvc_requests_total", **ROUTE) == 30
    await burying


def test_nobody_else_can_read_them(folder: Path) -> None:
    old = os.umask(0)
    try:
        counted(folder).close()
        metric_files.bury(folder, os.getpid())
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_folders_of_the_dead_are_removed_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    deserted, young, other = (tmp_path / f"{metric_files.PREFIX}{name}" for name in ("dead", "young", "link"))
    for each in (deserted, young):
        each.mkdir()
    (deserted / "owner").touch()
    other.symlink_to(deserted)
    with metric_files.supervised_folder() as living:
        assert not deserted.exists()
        assert young.exists(), "its owner may be about to lock it"
        with metric_files.supervised_folder():
            assert living.exists()
    assert not living.exists()
