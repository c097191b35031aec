"""All output of the service on standard error has the format of the log."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.backing_servers import ROOT

START = """
import asyncio, gc, logging, threading, warnings
from guidsvc.monitoring.logs import standard_streams
from guidsvc.monitoring.logs import log_config

class Unraisable:
    def __del__(self):
        raise ValueError("in a finalizer")

def fail():
    raise ValueError("in a thread")

def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

async def forget():
    async def work():
        raise ValueError("in a task")
    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()

with standard_streams.buffered():
    log_config.configure("info", "json", worker=WORKER)
"""


def lines_of(work: str, worker: int | None = None) -> list[dict[str, Any]]:
    """Run this work in a process with a configured log; return the lines on standard error."""
    program = START.replace("WORKER", str(worker)) + work
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    return [json.loads(line) for line in result.stderr.splitlines()]


@pytest.mark.parametrize(
    ("work", "event", "level", "exception"),
    [
        ("    warnings.warn('old')", "UserWarning: old", "warning", ""),
        ("    logging.getLogger('a.library').error('said')", "said", "error", ""),
        ("    in_thread(fail)", "uncaught exception", "critical", "ValueError: in a thread"),
        ("    Unraisable()", "xception ignored in", "error", "ValueError: in a finalizer"),
        ("    asyncio.run(forget())", "Task exception was never retrieved", "error", "ValueError: in a task"),
        ("    raise ValueError('at last')", "uncaught exception", "critical", "ValueError: at last"),
        ("raise ValueError('after the log')", "uncaught exception", "critical", "ValueError: after the log"),
    ],
    ids=["warning", "library", "thread", "finalizer", "task", "main", "end"],
)
def test_everything_on_standard_error_is_a_log_line(work: str, event: str, level: str, exception: str) -> None:
    (line,) = lines_of(work, worker=1)
    assert event in line["event"]
    assert (line["level"], line["worker"]) == (level, 1)
    assert line["timestamp"].endswith("Z")
    assert exception in line.get("exception", "")


def test_interrupt_and_exit_are_no_failures() -> None:
    assert lines_of("    in_thread(exit)") == []
    assert lines_of("raise KeyboardInterrupt") == []
