"""Standard streams that are unread, full or closed: the service starts, responds and stops."""

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
from tests.support.backing_servers import PLAIN_PYTHON, ROOT, START_SECONDS, free_port, pdapt, wait_until
from tests.support.forked_program import PROGRAM, ForkedProgram
from tests.support.forked_shell import ProgramStarts, program_starts
from tests.support.http_client import Client
from tests.support.metrics import scrape, value

GUID = "9094E4C980C74043A4B586B420E69DDF"
LONG_PATH = f"/{'x' * 190}"
PIPE_BYTES = 4096


# The stream


class Pipe:
    """A pipe with a buffer of one page."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def fill(self) -> None:
        """Fill the buffer."""
        os.write(self.writer, b"-" * (PIPE_BYTES - 1) + b"\n")

    def read_lines(self, count: int) -> list[str]:
        """Read this many lines."""
        text = b""
        while text.count(b"\n") < count:
            text += os.read(self.reader, 1 << 16)
        return text.decode().splitlines()

    def read_all(self, lines: list[str]) -> None:
        """Append every line, until the last writer has closed the pipe."""
        with os.fdopen(self.reader) as file:
            lines.extend(file)

    def close(self) -> None:
        """Close the read end, so that a blocked writer gets an error."""
        os.close(self.reader)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    new_pipe = Pipe()
    yield new_pipe
    os.close(new_pipe.writer)


def test_lines_are_written_whole_and_in_order(pipe: Pipe) -> None:
    stream = BoundedStream(pipe.writer)
    for number in range(2000):
        print(f"line {number}", file=stream)

    assert pipe.read_lines(2000) == [f"line {number}" for number in range(2000)]
    assert stream.drain(START_SECONDS)
    assert stream.close_within(START_SECONDS)
    pipe.close()


def test_lines_over_a_full_buffer_are_dropped_and_counted(pipe: Pipe) -> None:
    """A single line marks the gap."""
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
    """As when a disk fills up in the middle of a line; here the pipe breaks."""
    broken = Pipe()
    stream = BoundedStream(broken.writer)
    stream.write("x" * (PIPE_BYTES + 10) + "\n")  # the first page is written, and the thread waits with the rest
    assert os.read(broken.reader, 1) == b"x"
    broken.close()
    assert stream.drain(START_SECONDS)
    assert stream.dropped_lines == 1
    with (tmp_path / "log").open("wb") as file:
        os.dup2(file.fileno(), broken.writer)
        stream.write("whole\n")
        assert stream.drain(START_SECONDS)
    assert (tmp_path / "log").read_bytes() == b"\nwhole\n"
    assert stream.close_within(START_SECONDS)
    os.close(broken.writer)


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
    """After that, lines wait in the buffer; a line that finds it full is rejected."""
    pipe.fill()
    stream = BoundedStream(pipe.writer, max_bytes=100 * (PIECE_BYTES + 10))
    started = time.monotonic()
    for number in range(100):
        stream.write_line(f"line {number:04}\n".encode())
    assert time.monotonic() - started < 100 * 0.1, "each line waited"
    with pytest.raises(OSError, match="buffer is full") as error:
        stream.write_line(b"line more\n")
    assert error.value.errno == errno.EAGAIN
    assert stream.dropped_lines == 0, "the caller counts it"

    assert pipe.read_lines(101)[1:] == [f"line {number:04}" for number in range(100)]
    assert stream.close_within(START_SECONDS)
    pipe.close()


def test_audit_lines_wait_little_for_a_slowly_read_pipe(pipe: Pipe) -> None:
    """Although the reader catches up with each line; otherwise the event loop would mostly wait."""
    pipe.fill()
    stream = BoundedStream(pipe.writer)
    waited_seconds = 0.0
    for number in range(30):
        started = time.monotonic()
        stream.write_line(f"line {number:04} {'x' * PIPE_BYTES}\n".encode()[:PIPE_BYTES])
        waited_seconds += time.monotonic() - started
        os.read(pipe.reader, PIPE_BYTES)  # room for this line, not for the next
        wait_until(lambda: stream.drain(0), "an empty buffer")
    assert waited_seconds < 1.0, "30 times 0.1 s"
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
            threading.Thread(target=lambda line=f"{name}\n": [stream.write(line) for _ in range(500)])
            for name in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert stream.close_within(START_SECONDS)
    assert sorted((tmp_path / "log").read_text().split()) == [str(name) for name in range(8) for _ in range(500)]


# The service


class ServiceProcess:
    """The service as a process, with the shell redirections `streams`: forked, or started anew."""

    process: "subprocess.Popen[bytes] | ForkedProgram"

    def __init__(
        self,
        folder: Path,
        *options: str,
        streams: str = "",
        before: str = "",
        is_forked: bool = True,
        **descriptors: Any,
    ) -> None:
        self.port = free_port()
        with program_starts() as starts:
            start = starts.command if is_forked else [sys.executable, str(PROGRAM)]
            arguments = [*start, "--port", str(self.port), *options]
            command = ["sh", "-c", f'{before} exec "$@" {streams}', "sh", *arguments]
            self.process = subprocess.Popen(command, cwd=folder, env=os.environ | PLAIN_PYTHON, **descriptors)
            if is_forked:
                self.process = self._forked(starts, self.process)

    @staticmethod
    def _forked(starts: ProgramStarts, shell: "subprocess.Popen[bytes]") -> ForkedProgram:
        program, connection = starts.accept()
        connection.close()
        shell.wait(START_SECONDS)  # it has the streams, too
        return program

    def accepts(self) -> bool:
        """Return whether it accepts connections."""
        assert self.process.poll() is None, self.process.returncode
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(START_SECONDS)


@contextmanager
def run_service(folder: Path, *options: str, **streams: Any) -> Iterator[ServiceProcess]:
    """Run the service within the block, once it accepts connections; kill it if it is still running at the end."""
    service = ServiceProcess(folder, *options, **streams)
    try:
        wait_until(service.accepts, "the service")
        yield service
    finally:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


def ask_many(port: int, count: int) -> int:
    """Send this many requests for an absent path on one connection; return the number of replies."""
    with socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS) as connection:
        replies = connection.makefile("rb")
        for number in range(count):
            connection.sendall(
                f"GET {LONG_PATH} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {number}\r\n\r\n".encode()
            )
            if not (head := replies.readline()).startswith(b"HTTP/1.1 404"):
                raise AssertionError(head)
            size = 0
            while (line := replies.readline()) != b"\r\n":
                name, _, value_ = line.partition(b":")
                size = int(value_) if name.lower() == b"content-length" else size
            replies.read(size)
    return count


MANY = 3500
"""Requests whose log lines exceed the pipe and the buffer."""


@pytest.mark.parametrize("count", [1, 2])
async def test_unread_pipe_blocks_neither_responses_nor_shutdown(
    tmp_path: Path, server: str, count: int, request: pytest.FixtureRequest
) -> None:
    shared = ["--workers", "2", "--cache-url", request.getfixturevalue("redis_url")] if count == 2 else []
    pipe = Pipe()
    with run_service(tmp_path, *shared, "--server", server, "--log-format", "json", stderr=pipe.writer) as service:
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
    with run_service(tmp_path, "--server", server, "--log-format", "json", stderr=pipe.writer) as service:
        os.close(pipe.writer)
        ask_many(service.port, MANY)
        client = Client(service.port)
        dropped = value(await scrape(client), "guidsvc_log_lines_dropped_total")
        reader = threading.Thread(target=pipe.read_all, args=(lines,))
        reader.start()
        await client.aclose()
        wait_until(lambda: any("dropped_lines" in line for line in list(lines)), "the notice")
        ask_many(service.port, 1)
        assert service.stop() == 0
        reader.join()

    events = [json.loads(line) for line in lines]
    ids = [int(line["request_id"]) for line in events if line.get("path") == LONG_PATH]
    (gap,) = [index for index, line in enumerate(events) if line["event"] == "log lines dropped"]
    ids_before_gap = [int(line["request_id"]) for line in events[:gap] if line.get("path") == LONG_PATH]
    assert ids_before_gap == list(range(len(ids_before_gap)))
    assert ids == [*ids_before_gap, 0]
    assert events[gap]["level"] == "warning"
    assert 0 < dropped <= events[gap]["dropped_lines"]
    assert events[gap]["dropped_lines"] - (MANY - len(ids_before_gap)) in {0, 1}, (
        "the line of /metrics may be dropped too"
    )


async def test_unread_audit_pipe_blocks_no_write(tmp_path: Path, server: str) -> None:
    pipe = Pipe()
    pipe.fill()
    with run_service(
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
    """Create a named pipe of one page, and open its read end."""
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
        with run_service(tmp_path, *options, stderr=errors) as service:
            client = Client(service.port)
            for number in range(60):
                assert (await client.put(f"/guid/{GUID}", {"user": f"{number}"})).status < 300
            failures = value(await scrape(client), "guidsvc_audit_failures_total")
            received = os.read(reader, 1 << 16)
            assert (await client.put(f"/guid/{GUID}", {"user": "after"})).status == 200
            received += os.read(reader, 1 << 16)
            await client.aclose()
            assert service.stop() == 0

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    logged = [line["line"] for line in lines if line["event"] == "audit line not written"]
    written = [json.loads(line) for line in received.decode().splitlines()]
    assert failures == len(logged) > 0
    assert len(logged) + len(written) == 61
    assert len({line["version"] for line in logged + written}) == 61


def test_named_pipe_without_reader_stops_the_start(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "audit")
    result = pdapt(tmp_path, "--port", str(free_port()), "--audit-log", "audit")

    assert result.returncode == 1
    assert result.stderr == "pdapt.py: --audit-log: cannot write audit: no process reads this pipe\n"


OUTPUT_REDIRECTIONS = ["", "<&-", ">&-", ">/dev/full", "<&- >&-"]
ERROR_REDIRECTIONS = ["", "2>&-", "2>/dev/full"]
WORKER_REDIRECTIONS = ["<&- >&- 2>&-", ">&- 2>/dev/full", ">/dev/full 2>&-", ">/dev/full 2>/dev/full"]


async def check_start_reply_and_stop(folder: Path, streams: str, *options: str, is_forked: bool = True) -> None:
    """Run the service with these streams; a closed stream must be /dev/null in it."""
    given: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    given |= {"streams": streams, "is_forked": is_forked}
    with run_service(folder, *options, "--log-format", "json", **given) as service:
        client = Client(service.port)
        assert (await client.put(f"/guid/{GUID}", {"user": "a"})).status == 201
        assert (await client.get(f"/guid/{GUID}")).json["user"] == "a"
        for descriptor, closed in enumerate(("<&-", ">&-", "2>&-")):
            if closed in streams.split():
                assert Path(f"/proc/{service.process.pid}/fd/{descriptor}").resolve() == Path("/dev/null")
        await client.aclose()
        assert service.stop() == 0


@pytest.mark.parametrize("errors", ERROR_REDIRECTIONS)
@pytest.mark.parametrize("output", OUTPUT_REDIRECTIONS)
async def test_service_starts_answers_and_ends_with_any_streams(tmp_path: Path, output: str, errors: str) -> None:
    await check_start_reply_and_stop(tmp_path, f"{output} {errors}")


@pytest.mark.parametrize("streams", WORKER_REDIRECTIONS)
async def test_workers_start_answer_and_end_with_any_streams(tmp_path: Path, redis_url: str, streams: str) -> None:
    options = ["--workers", "2", "--cache-url", redis_url]
    is_forked = streams != WORKER_REDIRECTIONS[0]  # that one shows what Python does at its start
    await check_start_reply_and_stop(tmp_path, streams, *options, is_forked=is_forked)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["put", "-"], "standard input is not JSON"),
        (["patch", GUID, "-"], "standard input is not JSON"),
        (["edit", GUID], "an editor needs a terminal"),
    ],
    ids=["put", "patch", "edit"],
)
def test_standard_input_that_is_closed_is_empty(tmp_path: Path, arguments: list[str], reason: str) -> None:
    command = [sys.executable, str(ROOT / "pdapt.py"), *arguments, "--url", "http://127.0.0.1:1"]
    result = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *command],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )

    assert (result.returncode, result.stdout) == (2, "")
    assert f"error: {reason}" in result.stderr


@pytest.mark.parametrize("command", ["", "keys list"])
def test_deleted_working_directory_is_reported_with_a_remedy(tmp_path: Path, command: str) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    script = f'rmdir "$PWD"; exec "$@" {command}'
    shell_command = ["sh", "-c", script, "sh", sys.executable, str(ROOT / "pdapt.py")]
    result = subprocess.run(
        shell_command, cwd=folder, capture_output=True, text=True, timeout=START_SECONDS, check=False
    )

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "pdapt.py: --store-url: the working directory no longer exists; start in another, or name an absolute path: "
        "sqlite:////path/guidsvc.db\n"
    )


async def test_absolute_path_serves_in_a_deleted_working_directory(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    url = f"sqlite:///{tmp_path / 'guidsvc.db'}"
    with run_service(folder, "--store-url", url, before='rmdir "$PWD";') as service:
        client = Client(service.port)
        assert (await client.put(f"/guid/{GUID}", {"user": "a"})).status == 201
        await client.aclose()
        assert service.stop() == 0
