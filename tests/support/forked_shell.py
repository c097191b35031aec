"""Shells in which `guidsvc` is `python pdapt.py`, forked with the standard streams that the shell gives it.

A start of Python and its imports would cost each command 0.4 s of CPU.
"""

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO
from uuid import uuid4

from tests.support import program_stub
from tests.support.backing_servers import PLAIN_PYTHON, START_SECONDS
from tests.support.forked_program import ForkedProgram


class ProgramStarts:
    """Listens for the stubs that stand for the program in a shell, and forks it for each."""

    def __init__(self, listener: socket.socket, name: str) -> None:
        self.command = [sys.executable, "-IS", str(program_stub.__file__), name]
        """Runs the program, with the words that follow as its arguments."""
        self._listener = listener

    def accept(self) -> tuple[ForkedProgram, socket.socket]:
        """Fork the program for the next stub. Return it, and the connection for its exit code."""
        self._listener.settimeout(START_SECONDS)
        connection, _ = self._listener.accept()
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 4)
        folder, *opened = descriptors
        streams, count, *words = _read(connection).split(b"\0\0")
        arguments, variables = words[: int(count)], words[int(count) :]
        environment = dict(os.fsdecode(variable).split("=", 1) for variable in variables)
        by_number = dict(zip(map(int, streams.decode()), opened, strict=True))
        try:
            program = ForkedProgram.on_streams(
                [os.fsdecode(word) for word in arguments],
                folder,
                environment,
                [by_number.get(number) for number in range(3)],
            )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return program, connection

    def serve(self, process: "subprocess.Popen[bytes]") -> None:
        """Fork the programs of a process, one at a time, until it ends."""
        with _ends_of(process) as end:
            watched: list[socket.socket | int] = [self._listener, end]
            while self._listener in select.select(watched, [], [], START_SECONDS)[0]:
                program, connection = self.accept()
                with connection:
                    connection.sendall(b"%d" % program.wait(START_SECONDS))
        process.wait(START_SECONDS)


@contextmanager
def program_starts() -> Iterator[ProgramStarts]:
    """Listen for stubs inside the block."""
    name = f"guidsvc-{uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        yield ProgramStarts(listener, name)


def run_shell(
    script: str, folder: Path, variables: Mapping[str, str] | None = None, stdout: int | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run a script of bash in which `guidsvc` is the program; return its exit code and output."""
    with program_starts() as starts, TemporaryFile() as out, TemporaryFile() as err:
        run = " ".join(f"'{word}'" for word in starts.command)
        command = ["/bin/bash", "-c", f'guidsvc() {{ {run} "$@"; }}\n{script}']
        environment = os.environ | PLAIN_PYTHON | dict(variables or {})
        shell = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out if stdout is None else stdout, stderr=err
        )
        starts.serve(shell)
        return subprocess.CompletedProcess(command, shell.returncode, _text(out), _text(err))


def run_program(words: Sequence[str], *, env: Mapping[str, str], stdout: int, stderr: int) -> int:
    """Run the program with these streams; return its exit code."""
    with program_starts() as starts:
        process = subprocess.Popen([*starts.command, *words], env=env, stdout=stdout, stderr=stderr)
        starts.serve(process)
        return process.returncode


@contextmanager
def _ends_of(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    """Open a descriptor that is readable once the process has ended."""
    descriptor = os.pidfd_open(process.pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(connection: socket.socket) -> bytes:
    """Return all that the other side sends."""
    pieces = []
    while piece := connection.recv(65_536):
        pieces.append(piece)
    return b"".join(pieces)


def _text(file: IO[bytes]) -> str:
    """Return the content of a file."""
    file.seek(0)
    return file.read().decode()
