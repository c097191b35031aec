"""The waits of the nemesis end, and say what they waited for."""

import asyncio
import ctypes
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nemesis.cluster import Cluster, Sqlite
from tests.nemesis.faults import Nemesis
from tests.support import backing_servers
from tests.support.backing_servers import Server, free_port, mongo_server, running
from tests.support.time_limit import within

_DEAF = """
import signal, socket, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(600)
"""


@pytest.fixture
def deaf_server(tmp_path: Path) -> Iterator[Server]:
    """A server that ignores SIGTERM."""
    port = free_port()
    with running([sys.executable, "-c", _DEAF, str(port)], port, tmp_path) as server:
        yield server


async def test_restart_of_a_server_that_does_not_end_fails(
    deaf_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backing_servers, "START_SECONDS", 0.5)
    cluster = Cluster([], deaf_server, deaf_server, Sqlite(tmp_path / "nemesis.db"))
    async with asyncio.timeout(20):
        with pytest.raises(AssertionError, match=r"not ended within 0.5 s after SIGTERM\ndeaf"):
            await Nemesis(cluster, random.Random(7))._restart(deaf_server, signal.SIGTERM)
    assert deaf_server.process.wait(20) == -signal.SIGKILL


async def test_time_limit_names_what_did_not_happen() -> None:
    with pytest.raises(AssertionError, match=r"^the end of the fault: not within 0 s$"):
        async with within(0.01, "the end of the fault"):
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError, match="of the block"):
        async with within(60, "the end of the fault"):
            raise TimeoutError("of the block")


def test_mongo_server_ends_whichever_thread_gets_the_signal(tmp_path: Path) -> None:
    """The kernel may choose any thread, and Python runs the handler in the main thread only."""
    with mongo_server(tmp_path) as server:
        pid = server.process.pid
        others = [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir() if int(task.name) != pid]
        assert ctypes.CDLL(None).tgkill(pid, others[0], signal.SIGTERM) == 0
        assert server.process.wait(backing_servers.START_SECONDS) == 0
