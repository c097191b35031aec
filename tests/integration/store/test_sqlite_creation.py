"""The creation of a SQLite file, by processes that are killed, and by several at once."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.support.backing_servers import ROOT

WAIT_SECONDS = 120
KILLS = """
import json, os, random, signal, sys, time
from contextlib import closing
from pathlib import Path
from guidsvc.errors import StartError
from guidsvc.store.sqlite import parts
from guidsvc.store.sqlite.schema import open_writer

STEP = 5
parts.WAIT_SECONDS = 0.0  # no other process is creating the file
folder, rng = Path(sys.argv[1]), random.Random(7)

def kill_after(calls):
    def count(frame, event, argument):
        nonlocal calls
        calls -= event in {"c_call", "c_return"}
        if calls < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(count)

def create(path, calls):
    process = os.fork()
    if not process:
        kill_after(calls)
        open_writer(path).close()
        os._exit(0)
    return process

def opened(path):
    try:
        with closing(open_writer(path)) as connection:
            return connection.execute("SELECT count(*), (SELECT count(*) FROM records) FROM identity").fetchone()
    except StartError as error:
        return str(error)

def ended(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0

found, calls, has_ended = [], 0, False
while not has_ended:
    path = folder / f"{calls}.db"
    has_ended = ended(create(path, calls))
    found.append([calls, opened(path)])
    calls += STEP
begun = time.monotonic()
ended(create(folder / "measured.db", float("inf")))
seconds = time.monotonic() - begun
for number in range(40):  # these may be killed within a statement
    path = folder / f"at any time {number}.db"
    process = create(path, float("inf"))
    time.sleep(rng.uniform(0, seconds))
    os.kill(process, signal.SIGKILL)
    ended(process)
    found.append([path.name, opened(path)])
print(json.dumps(found))
"""
AT_ONCE = """
import sys
from contextlib import closing
from pathlib import Path
from guidsvc.store.sqlite.schema import open_writer
sys.stdin.read()
with closing(open_writer(Path(sys.argv[1]))) as connection:
    connection.execute("INSERT INTO identity VALUES (?)", (sys.argv[2],))
"""


def test_start_after_a_kill_completes_the_creation(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLS, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=WAIT_SECONDS
    )
    found = json.loads(done.stdout)

    assert len(found) > 80
    assert [each for each in found if each[1] != [1, 0]] == []
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith("-new")] == []


def test_processes_that_create_at_once_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "guidsvc.db"
    gate, opened = os.pipe()
    arguments = [sys.executable, "-c", AT_ONCE, str(path)]
    processes = [
        subprocess.Popen([*arguments, str(number)], cwd=ROOT, stdin=gate, stderr=subprocess.PIPE) for number in range(6)
    ]
    os.close(gate)
    os.close(opened)  # lets them begin
    assert [each.communicate(timeout=WAIT_SECONDS)[1] for each in processes] == [b""] * 6

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM identity").fetchone() == (7,)
    assert {each.name for each in tmp_path.iterdir()} == {"guidsvc.db"}
