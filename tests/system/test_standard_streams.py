"""Standard streams that nobody reads, that are full, or that are closed: the service starts, answers and ends."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guidsvc.monitoring.logs.standard_streams import PIECE_BYTES, BoundedStream
from tests.support.backing_servers import ROOT, START_SECONDS, free_port, wait_until
from tests.support.http_client import Client
from tests.support.metrics import scrape, value

GUID = "9094E4C980C74043A4B586B420E69DDF"
LONG_PATH = f"/{'x' * 190}"
PIPE_BYTES = 4096


# The stream


class Pipe:
    """A pipe of one page. `fill` takes all its room."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def fill(self) -> None:
        """Leave no room."""
        os.write(self.writer, b"-" * (PIPE_BYTES - 1) + b"\n")

    def read_lines(self, count: int) -> list[str]:
        """Read so many lines."""
        text = b""
        while text.count(b"\n") < count:
            text += os.read(self.reader, 1 << 16)
        return text.decode().splitlines()

    def read_all(self, lines: list[str]) -> None:
        """Append every line, until the last writer has gone."""
        with os.fdopen(self.reader) as file:
            lines.extend(file)

    def close(self) -> None:
        """Close the end that is read: a thread that is blocked gets an error."""
        os.close(self.reader)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.writer)


def test_lines_are_written_whole_and_in_order(pipe: Pipe) -> None:
    stream = BoundedStream(pipe.writer)
    for number in range(2000):
        print(f"line {number}", file=stream)

    assert pipe.read_lines(2000) == [f"line {number}" for number in range(2000)]
    assert stream.drain(START_SECONDS)
    assert stream.close_within(START_SECONDS)
    pipe.close()


def test_lines_over_a_full_buffer_are_dropped_and_counted(pipe: Pipe) -> None:
    """And one line stands where the others are missing."""
    pipe.fill()
    stream = BoundedStream(pipe.writer, max_bytes=10 * (PIECE_BYTES + 10))
    stream.notice = "{} dropped\n".format
    for number in range(15):
        stream.write(f"line {number:04}\n")
    assert stream.dropped_lines == 5

    assert pipe.read_lines(12)[1:] == [*(f"line {number:04}" for number in range(10)), "5 dropped"]
    assert stream.drain(START_SECONDS)
    stream.write("line after\n")
    assert pipe.read_lines(1) == ["line after"]
    assert stream.close_within(START_SECONDS)
    pipe.close()


def test_partial_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    """As when a disk is full in the middle of it; here it is the pipe that breaks."""
    made = Pipe()
    stream = BoundedStream(made.writer)
    stream.write("x" * (PIPE_BYTES + 10) + "\n")  # the first page is taken, and the thread waits with the rest
    assert os.read(made.reader, 1) == b"x"
    made.close()
    assert stream.drain(START_SECONDS)
    assert stream.dropped_lines == 1
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), made.writer)
        stream.write("whole\n")
        assert stream.drain(START_SECONDS)
    assert (tmp_path / "log").read_bytes() == b"\nwhole\n"
    assert stream.close_within(START_SECONDS)
    os.close(made.writer)


def test_pipe_made_non_blocking_by_another_process_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    pipe.fill()
    stream = BoundedStream(pipe.writer)
    stream.write("line\n")

    assert pipe.read_lines(2)[1:] == ["line"]
    assert stream.drain(START_SECONDS)
    assert stream.dropped_lines == 0
    assert stream.close_within(START_SECONDS)
    pipe.close()


def test_audit_line_is_written_before_its_caller_continues(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        stream = BoundedStream(file.fileno())
        stream.write("first\n")
        stream.write_line(b"second\n")
        assert (tmp_path / "log").read_text() == "first\nsecond\n"
        assert stream.close_within(START_SECONDS)


def test_audit_line_waits_once_for_an_unread_pipe(pipe: Pipe) -> None:
    """Then lines wait in the buffer, and those that find it full are refused."""
    pipe.fill()
    stream = BoundedStream(pipe.writer, max_bytes=100 * (PIECE_BYTES + 10))
    begun = time.monotonic()
    for number in range(100):
        stream.write_line(f"line {number:04}\n".encode())
    assert time.monotonic() - begun < 100 * 0.1, "it waited for each"
    with pytest.raises(OSError, match="buffer is full") as refused:
        stream.write_line(b"line more\n")
    assert refused.value.errno == errno.EAGAIN
    assert stream.dropped_lines == 0, "its caller knows, and counts it"

    assert pipe.read_lines(101)[1:] == [f"line {number:04}" for number in range(100)]
    assert stream.close_within(START_SECONDS)
    pipe.close()


def test_audit_lines_wait_little_for_a_slowly_read_pipe(pipe: Pipe) -> None:
    """Though it catches up with each: else the loop would stand still for most of the time."""
    pipe.fill()
    stream = BoundedStream(pipe.writer)
    waited = 0.0
    for number in range(30):
        begun = time.monotonic()
        stream.write_line(f"line {number:04} {'x' * PIPE_BYTES}\n".encode()[:PIPE_BYTES])
        waited += time.monotonic() - begun
        os.read(pipe.reader, PIPE_BYTES)  # there is room for the line, but not for the next
        wait_until(lambda: stream.drain(0), "that it has caught up")
    assert waited < 1.0, "30 times 0.1 s"
    assert stream.dropped_lines == 0
    assert stream.close_within(START_SECONDS)
    pipe.close()


def test_failed_audit_line_is_reported_to_its_caller() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        stream = BoundedStream(full.fileno())
        with pytest.raises(OSError, match="No space left"):
            stream.write_line(b"line\n")
        assert stream.close_within(START_SECONDS)
    assert stream.dropped_lines == 0


def test_many_threads_can_write(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        stream = BoundedStream(file.fileno())
        threads = [
            threading.Thread(target=lambda mine=f"{name}\n": [stream.write(mine) for _ in range(500)])
            for name in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert stream.close_within(START_SECONDS)
    assert sorted((tmp_path / "log").read_text().split()) == [str(name) for name in range(8) for _ in range(500)]


# The service


class Running:
    """The service with the standard streams that a shell's words give it."""

    def __init__(self, folder: Path, *options: str, streams: str = "", before: str = "", **descriptors: Any) -> None:
        self.port = free_port()
        words = [sys.executable, str(ROOT / "pdapt.py"), "--port", str(self.port), *options]
        command = ["sh", "-c", f'{before} exec "$@" {streams}', "sh", *words]
        self.process = subprocess.Popen(command, cwd=folder, **descriptors)

    def accepts(self) -> bool:
        """Whether it listens."""
        assert self.process.poll() is None, self.process.returncode
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(START_SECONDS)


@contextmanager
def running(folder: Path, *options: str, **streams: Any) -> Iterator[Running]:
    """Run the service, inside, from when it serves; nothing of it is left."""
    service = Running(folder, *options, **streams)
    try:
        wait_until(service.accepts, "the service")
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


def ask_many(port: int, count: int) -> int:
    """Ask for what is not there, so many times on one connection; return how many answers came."""
    with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as connection:
        answers = connection.makefile("rb")
        for number in range(count):
            connection.sendall(
                f"GET {LONG_PATH} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {number}\r\n\r\n".encode()
            )
            if not (head := answers.readline()).startswith(b"HTTP/1.1 404"):
                raise AssertionError(head)
            size = 0
            while (line := answers.readline()) != b"\r\n":
                name, _, words = line.partition(b":")
                size = int(words) if name.lower() == b"content-length" else size
            answers.read(size)
    return count


MANY = 3500
"""Requests whose lines are more than the pipe and the buffer hold."""


@pytest.mark.parametrize("count", [1, 2])
async def test_unread_pipe_blocks_neither_responses_nor_shutdown(
    tmp_path: Path, server: str, count: int, request: pytest.FixtureRequest
) -> None:
    shared = ["--workers", "2", "--cache-url", request.getfixturevalue("redis_url")] if count == 2 else []
    pipe = Pipe()
    with running(tmp_path, *shared, "--server", server, "--log-format", "json", stderr=pipe.writer) as service:
        os.close(pipe.writer)
        assert ask_many(service.port, MANY) == MANY
        client = Client(service.port)
        assert (await client.get("/livez")).status == 200
        await client.aclose()
        assert service.stop() == 0
    pipe.close()


async def test_lines_are_ordered_and_gaps_are_marked_in_place(tmp_path: Path, server: str) -> None:
    pipe = Pipe()
    lines: list[str] = []
    with running(tmp_path, "--server", server, "--log-format", "json", stderr=pipe.writer) as service:
        os.close(pipe.writer)
        ask_many(service.port, MANY)
        client = Client(service.port)
        counted = value(await scrape(client), "guidsvc_log_lines_dropped_total")
        reading = threading.Thread(target=pipe.read_all, args=(lines,))
        reading.start()
        await client.aclose()
        wait_until(lambda: any("dropped_lines" in line for line in list(lines)), "the notice")
        ask_many(service.port, 1)
        assert service.stop() == 0
        reading.join()

    told = [json.loads(line) for line in lines]
    numbers = [int(line["request_id"]) for line in told if line.get("path") == LONG_PATH]
    (gap,) = [place for place, line in enumerate(told) if line["event"] == "log lines dropped"]
    before = [int(line["request_id"]) for line in told[:gap] if line.get("path") == LONG_PATH]
    assert before == list(range(len(before)))
    assert numbers == [*before, 0]
    assert told[gap]["level"] == "warning"
    assert 0 < counted <= told[gap]["dropped_lines"]
    assert told[gap]["dropped_lines"] - (MANY - len(before)) in {0, 1}, "that of /metrics may be among them"


async def test_unread_audit_pipe_blocks_no_write(tmp_path: Path, server: str) -> None:
    pipe = Pipe()
    pipe.fill()
    with running(
        tmp_path, "--server", server, "--audit-log", "stderr", "--log-format", "console", stderr=pipe.writer
    ) as (service):
        client = Client(service.port)
        for number in range(30):
            assert (await client.put(f"/guid/{GUID}", {"user": f"{number}"})).status < 300
        await client.aclose()
        assert service.stop() == 0
    os.close(pipe.writer)
    pipe.close()


@contextmanager
def fifo(path: Path) -> Iterator[int]:
    """Make a named pipe of one page, and hold the end that is read."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        yield reader
    finally:
        os.close(reader)


async def test_full_named_pipe_diverts_audit_lines_to_the_log(tmp_path: Path, server: str) -> None:
    log, path = tmp_path / "log", tmp_path / "audit"
    with fifo(path) as reader, log.open("wb") as errors:
        options = ["--audit-log", str(path), "--log-format", "json", "--server", server, "--no-access-log"]
        with running(tmp_path, *options, stderr=errors) as service:
            client = Client(service.port)
            for number in range(60):
                assert (await client.put(f"/guid/{GUID}", {"user": f"{number}"})).status < 300
            failures = value(await scrape(client), "guidsvc_audit_failures_total")
            through = os.read(reader, 1 << 16)
            assert (await client.put(f"/guid/{GUID}", {"user": "after"})).status == 200
            through += os.read(reader, 1 << 16)
            await client.aclose()
            assert service.stop() == 0

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    logged = [line["line"] for line in lines if line["event"] == "audit line not written"]
    written = [json.loads(line) for line in through.decode().splitlines()]
    assert failures == len(logged) > 0
    assert len(logged) + len(written) == 61
    assert len({line["version"] for line in logged + written}) == 61


def test_named_pipe_without_reader_stops_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "audit")
    service = Running(tmp_path, "--audit-log", "audit", stderr=subprocess.PIPE, text=True)

    _, told = service.process.communicate(timeout=START_SECONDS)
    assert service.process.returncode == 1
    assert told == "pdapt.py: --audit-log: cannot write audit: no process reads this pipe\n"


OUTPUTS = ["", "<&-", ">&-", ">/dev/full", "<&- >&-"]
ERRORS = ["", "2>&-", "2>/dev/full"]
WITH_WORKERS = ["<&- >&- 2>&-", ">&- 2>/dev/full", ">/dev/full 2>&-", ">/dev/full 2>/dev/full"]


async def starts_answers_and_ends(folder: Path, streams: str, *options: str) -> None:
    """Run the service with these streams: what is closed is /dev/null in it."""
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    with running(folder, *options, "--log-format", "json", streams=streams, **quiet) as service:
        client = Client(service.port)
        assert (await client.put(f"/guid/{GUID}", {"user": "a"})).status == 201
        assert (await client.get(f"/guid/{GUID}")).json["user"] == "a"
        for descriptor, closed in enumerate(("<&-", ">&-", "2>&-")):
            if closed in streams.split():
                assert Path(f"/proc/{service.process.pid}/fd/{descriptor}").resolve() == Path("/dev/null")
        await client.aclose()
        assert service.stop() == 0


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("output", OUTPUTS)
async def test_service_starts_answers_and_ends_with_any_streams(tmp_path: Path, output: str, errors: str) -> None:
    await starts_answers_and_ends(tmp_path, f"{output} {errors}")


@pytest.mark.parametrize("streams", WITH_WORKERS)
async def test_workers_start_answer_and_end_with_any_streams(tmp_path: Path, redis_url: str, streams: str) -> None:
    await starts_answers_and_ends(tmp_path, streams, "--workers", "2", "--cache-url", redis_url)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["put", "-"], "standard input is not JSON"),
        (["patch", GUID, "-"], "standard input is not JSON"),
        (["edit", GUID], "an editor needs a terminal"),
    ],
    ids=["put", "patch", "edit"],
)
def test_standard_input_that_is_closed_is_empty(tmp_path: Path, words: list[str], reason: str) -> None:
    command = [sys.executable, str(ROOT / "pdapt.py"), *words, "--url", "http://127.0.0.1:1"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {reason}" in done.stderr


@pytest.mark.parametrize("command", ["", "keys list"])
def test_deleted_working_directory_is_reported_with_a_remedy(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    script = f'rmdir "$PWD"; exec "$@" {command}'
    words = ["sh", "-c", script, "sh", sys.executable, str(ROOT / "pdapt.py")]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=START_SECONDS, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "pdapt.py: --store-url: the working directory no longer exists; start in another, or name an absolute path: "
        "sqlite:////path/guidsvc.db\n"
    )


async def test_absolute_path_serves_in_a_deleted_working_directory(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    url = f"sqlite:///{tmp_path / 'guidsvc.db'}"
    with running(folder, "--store-url", url, before='rmdir "$PWD";') as service:
        client = Client(service.port)
        assert (await client.put(f"/guid/{GUID}", {"user": "a"})).status == 201
        await client.aclose()
        assert service.stop() == 0
