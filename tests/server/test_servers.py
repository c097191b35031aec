"""Functions of the tests that find child processes."""

import os
import subprocess
import sys

from tests.support.backing_servers import children_of

THREADS_AND_A_CHILD = """
import subprocess, threading, time
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
while child.poll() is None:
    threading.Thread(target=time.sleep, args=(0,)).start()
"""


def test_children_are_found_while_threads_come_and_go() -> None:
    command = [sys.executable, "-c", THREADS_AND_A_CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert all(children_of(parent.pid) == [child] for _ in range(300))
        finally:
            parent.kill()
            subprocess.run(["kill", str(child)], check=True)


def test_ended_child_is_not_listed() -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        assert child.pid in children_of(os.getpid())
        child.kill()
        child.wait()
        assert child.pid not in children_of(os.getpid())
