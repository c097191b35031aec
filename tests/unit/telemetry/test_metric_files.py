"""The files in which processes share their metrics: invalid, missing, and those of dead processes."""

import asyncio
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from guidsvc.monitoring import metric_files
from guidsvc.monitoring.process_monitor import ProcessMonitor
from guidsvc.monitoring.prometheus import MultiProcessCollector, render
from guidsvc.telemetry.metric_catalog import METRICS
from guidsvc.telemetry.metrics import Metrics
from tests.conftest import ExpectedLogs
from tests.support.backing_servers import ROOT
from tests.support.metrics import Samples, read, value

SKIPPED_FILES = "guidsvc_metric_files_left_out_total"
ROUTE = {"route": "/guid", "method": "GET", "status": "200"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shared = tmp_path / "metrics"
    shared.mkdir()
    return shared


def counting_process(folder: Path, count: int = 1) -> ProcessMonitor:
    """Return the monitor of a process that has counted and published this many requests."""
    meters = Metrics()
    for _ in range(count):
        meters.requests.record("/guid", "GET", 200, 0.02)
    watch = ProcessMonitor(meters, folder=folder)
    watch.publish()
    return watch


async def scrape(watch: ProcessMonitor) -> Samples:
    return read((await watch.render(""))[0].decode())


def merged(folder: Path) -> Samples:
    return read(render(MultiProcessCollector(folder), "")[0].decode())


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
async def test_invalid_metric_files_are_skipped_and_counted(
    folder: Path, name: str, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    """The log names it once, regardless of the number of scrapes; the next invalid file is logged too."""
    expected_logs.add("metric files unreadable")
    watch = counting_process(folder, 3)
    assert value(await scrape(watch), SKIPPED_FILES) == 0
    FOREIGN[name](folder / name)
    for _ in range(3):
        samples = await scrape(watch)
        assert value(samples, "guidsvc_requests_total", **ROUTE) == 3
        assert value(samples, SKIPPED_FILES) == 1
    assert len([logged for logged in caplog.records if "unreadable" in logged.getMessage()]) == 1
    (folder / "counter_77.db").write_bytes(b"")
    assert value(await scrape(watch), SKIPPED_FILES) == 2
    watch.close()


PROCESS_WITH_SKEW = """
meters.store.clock_skew_seconds, meters.store.clock_skew_measured_at = map(float, sys.argv[1].split())
watch.publish()
"""


def test_most_recent_measurement_of_all_processes_counts(folder: Path) -> None:
    """Regardless of which process wrote last, and of which value is larger."""
    for skew_and_time in ("7 1000", "3 1002", "5 1001"):
        run(folder, f"sys.argv[1] = {skew_and_time!r}{PROCESS_WITH_SKEW}")
        assert value(merged(folder), "guidsvc_clock_skew_seconds") == (7 if skew_and_time == "7 1000" else 3)


def test_repeated_value_counts_as_measured_again(folder: Path) -> None:
    program = f"sys.argv[1] = '7 1000'{PROCESS_WITH_SKEW}sys.argv[1] = '7 1003'{PROCESS_WITH_SKEW}"
    run(folder, "sys.argv[1] = '3 1002'" + PROCESS_WITH_SKEW)
    run(folder, program)
    assert value(merged(folder), "guidsvc_clock_skew_seconds") == 7


def test_most_recent_metrics_say_when_they_were_measured() -> None:
    for spec in METRICS:
        assert (spec.over == "livemostrecent") == (spec.measured_at is not None), spec.name


async def test_invalid_file_of_the_own_process_is_rebuilt(folder: Path) -> None:
    for content in (b"", b"abc", b"SQLite format 3\0" * 100, struct.pack("i", -9) + b"x" * 100):
        (folder / f"counter_{os.getpid()}.db").write_bytes(content)
        watch = counting_process(folder, 2)
        watch.close()
        assert value(merged(folder), "guidsvc_requests_total", **ROUTE) == 2


@pytest.mark.parametrize("pattern", ["*.db", "gauge_*.db", "counter_*.db"])
@pytest.mark.parametrize("harm", ["removed", "emptied", "replaced"])
async def test_removed_files_are_rebuilt(folder: Path, pattern: str, harm: str, expected_logs: ExpectedLogs) -> None:
    """With all requests counted since the process began."""
    expected_logs.add("metric files missing")
    watch = counting_process(folder, 3)
    for path in list(folder.glob(pattern)):
        if harm == "emptied":
            os.truncate(path, 0)
        else:
            path.unlink()
        if harm == "replaced":
            path.write_bytes(b"foreign")
    for count in (4, 5):
        watch.meters.requests.record("/guid", "GET", 200, 0.02)
        assert value(await scrape(watch), "guidsvc_requests_total", **ROUTE) == count
    watch.close()


PROCESS = """
import os, resource, sys
from pathlib import Path
from guidsvc.monitoring import metric_files
from guidsvc.telemetry.metrics import Metrics
from guidsvc.monitoring.process_monitor import ProcessMonitor

folder, meters = Path(sys.argv[1]), Metrics()
watch = ProcessMonitor(meters, folder=folder)

def count():
    meters.requests.record("/guid", "GET", 200, 0.02)
    watch.publish()

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
"""


def run(folder: Path, program: str) -> str:
    """Run a process that counts requests into the folder; return its log."""
    command = [sys.executable, "-c", PROCESS + program, str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, (result.returncode, result.stderr)
    return result.stdout


CUT_SHORT = """
def cut():
    for path in folder.glob("*.db"):
        os.truncate(path, 0)
    return 0

count()
meters.connections = cut  # called after the files are checked, before they are written
count()
"""


def test_file_truncated_during_a_write_ends_no_process(folder: Path) -> None:
    run(folder, CUT_SHORT)
    assert value(merged(folder), "guidsvc_requests_total", **ROUTE) == 2


FULL = """
count()
limit(4096)
meters.requests.refused.update(range(400, 500))  # so many that the file must grow
count()
count()
assert metric_files.read_all(folder)[1] == [], "files that cannot be read"
if "room" in sys.argv:
    limit(resource.RLIM_INFINITY)
    count()
"""


@pytest.mark.parametrize("room", [False, True])
def test_full_disk_costs_only_the_metrics(folder: Path, *, room: bool) -> None:
    """Earlier counts stay readable; requests counted meanwhile are written once there is space."""
    program = f"sys.argv.append('room')\n{FULL}" if room else FULL
    assert run(folder, program).count("metrics cannot be written") == 1
    requests = value(merged(folder), "guidsvc_requests_total", **ROUTE)
    assert requests == 4 if room else requests >= 1


def test_dead_processes_keep_their_files_if_there_is_no_room(folder: Path) -> None:
    count_and_bury = """
count()
watch.close()
limit(1024)
try:
    metric_files.bury(folder, os.getpid())
except OSError as error:
    print(error)
"""
    assert "File too large" in run(folder, count_and_bury)
    assert value(merged(folder), "guidsvc_requests_total", **ROUTE) == 1


def test_link_in_place_of_a_file_is_not_followed(folder: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    for name in (f"counter_{os.getpid()}.db", f"counter_{os.getpid()}.new", f"histogram_{os.getpid()}.new"):
        (folder / name).symlink_to(precious)
    counting_process(folder, 2).close()
    assert precious.read_bytes() == b"precious"
    assert value(merged(folder), "guidsvc_requests_total", **ROUTE) == 2


def test_counts_of_dead_processes_are_added_up(folder: Path) -> None:
    merged_before: Samples = {}
    for pid in (90_001, 90_002, 90_003):
        counting_process(folder, 2).close()
        for path in folder.glob(f"*_{os.getpid()}.db"):
            path.rename(path.with_name(path.name.replace(str(os.getpid()), str(pid))))
        merged_before = merged(folder)
        metric_files.bury(folder, pid)
        assert {key: sample for key, sample in merged(folder).items() if key[0].startswith("guidsvc_req")} == {
            key: sample for key, sample in merged_before.items() if key[0].startswith("guidsvc_req")
        }
    assert value(merged_before, "guidsvc_requests_total", **ROUTE) == 6
    assert sorted(path.name for path in folder.glob("[ch]*.db")) == ["counter_dead.db", "histogram_dead.db"]


async def test_reader_sees_dead_processes_once_during_the_merge(folder: Path) -> None:
    def bury_all() -> None:
        for pid in range(90_001, 90_030):
            metric_files.bury(folder, pid)

    counting_process(folder, 1).close()
    for pid in range(90_001, 90_030):
        for kind in ("counter", "histogram"):
            (folder / f"{kind}_{pid}.db").write_bytes((folder / f"{kind}_{os.getpid()}.db").read_bytes())
    task = asyncio.create_task(asyncio.to_thread(bury_all))
    while not task.done():
        assert value(await asyncio.to_thread(merged, folder), "guidsvc_requests_total", **ROUTE) == 30
    await task


def test_files_are_private(folder: Path) -> None:
    old = os.umask(0)
    try:
        counting_process(folder).close()
        metric_files.bury(folder, os.getpid())
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_folders_of_dead_supervisors_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned, young, link = (tmp_path / f"{metric_files.PREFIX}{name}" for name in ("dead", "young", "link"))
    for folder in (abandoned, young):
        folder.mkdir()
    (abandoned / "owner").touch()
    link.symlink_to(abandoned)
    with metric_files.supervised_folder() as own_folder:
        own_folder.renew()
        assert not abandoned.exists()
        assert young.exists(), "its owner may be about to lock it"
        with metric_files.supervised_folder():
            assert own_folder.path.exists()
    assert not own_folder.path.exists()


def test_folder_is_rebuilt_and_stays_with_its_supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with metric_files.supervised_folder() as folder:
        for harm in ("everything", "owner", "nothing"):
            folder.renew()
            if harm == "everything":
                shutil.rmtree(folder.path)
            elif harm == "owner":
                (folder.path / "owner").unlink()
        folder.renew()
        assert folder.path.stat().st_mode & 0o777 == 0o700
        with metric_files.supervised_folder():
            assert folder.path.exists(), "the next supervisor sees that it has an owner"


def test_folder_in_use_never_looks_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with metric_files.supervised_folder() as folder:
        folder.renew()
        with metric_files.locked(folder.path, exclusive=False):
            pass
        files = [folder.path, *folder.path.iterdir()]
        for path_ in files:
            os.utime(path_, (0, 0))
        folder.renew()
        assert {path.name for path in files[1:]} == {"owner", "lock"}
        assert all(path.stat().st_mtime > 0 for path in files)


@pytest.mark.parametrize("other", ["file", "link"])
def test_folder_replaced_by_another_user_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    with metric_files.supervised_folder() as folder:
        if other == "file":
            folder.path.touch()
        else:
            folder.path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(FileExistsError, match="not a directory"):
            folder.renew()
    assert not list((tmp_path / "elsewhere").iterdir())
