"""What curl does with the examples in the docs, for machines that have no curl."""

import re
import shlex
import subprocess
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPMessage
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

_ASSIGNMENT = re.compile(r"(\w+)=(\S+)")
_PIPED = re.compile(r"(\w+)=\$\((curl .*) \| (.*)\)")
_WORDS = {
    "GUID": "[0-9A-F]{32}",
    "CURSOR": "[A-Za-z0-9_-]+",
    "DATE": "[A-Z][a-z]{2}, [0-9A-Za-z :]+ GMT",
    "USER": '[^"]+',
    "ID": "[0-9A-Za-z]{12}",
    "KEY": "gs_[0-9A-Za-z_]{63}",
    "REQUEST": "[0-9a-f]{32}",
} | dict.fromkeys(["VERSION", "EXPIRE", "TIME", "MS", "SECONDS", "YEARS", "NUMBER"], "[0-9]+")  # fmt: skip


class Printed(NamedTuple):
    """What the service answered, and what curl would print of it."""

    status: int
    headers: HTTPMessage
    text: str


class Request(NamedTuple):
    """What a line of curl sends; `body` is text, or a file behind `@`; `target` is the file for the response."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str | None
    target: str | None


def parse(line: str, variables: Mapping[str, str]) -> Request:
    """Return what a line of the docs sends, with the variables of a shell."""
    words = iter(shlex.split(_substituted(line, variables)))
    assert next(words) == "curl"
    method, body, headers, url, target = "GET", None, {}, "", None
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word in {"-d", "--data-binary"}:
            body = next(words)
        elif word == "-s":  # no progress, which is not shown here either
            continue
        elif word == ">":
            target = next(words)
        else:
            assert not word.startswith("-"), f"{word} in {line}"
            url = word
    return Request(method, url, headers, body, target)


def run(line: str, port: int, folder: Path, variables: Mapping[str, str] | None = None) -> Printed:
    """Do what a line of the docs does, against this port, with files in this folder and the variables of a shell."""
    request = parse(line, variables or {})
    headers, body = dict(request.headers), None
    if request.body is not None:
        body = (folder / request.body[1:]).read_bytes() if request.body.startswith("@") else request.body.encode()
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    printed = _asked(request.method, request.url, body, headers, port)
    if request.target is not None:
        (folder / request.target).write_text(printed.text)
        return printed._replace(text="")
    return printed


def run_assignment(line: str, port: int, folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that a line sets to what is left of an answer behind a pipe: `NAME=$(curl ... | sed ...)`."""
    found = _PIPED.fullmatch(line)
    assert found is not None, line
    answer = run(found[2], port, folder, variables).text
    program = shlex.split(found[3])
    assert program[0] == "sed"
    return {found[1]: subprocess.run(program, input=answer, capture_output=True, text=True, check=True).stdout.strip()}


def _substituted(line: str, variables: Mapping[str, str]) -> str:
    """Put the variables in their places, as a shell does outside of single quotes."""
    parts = re.split(r"('[^']*')", line)
    for place in range(0, len(parts), 2):
        parts[place] = re.sub(r"\$(\w+)", lambda found: variables[found[1]], parts[place])
    return "".join(parts)


def pattern(promised: str) -> str:
    """Return the regular expression of an answer in the docs: `<...>` stands for a value, `...` for any text."""
    exact = re.sub(r"<([A-Z]+)>", lambda found: f"\0{found[1]}\0", promised)
    parts = re.split(r"(\.\.\.|\0[A-Z]+\0)", exact)
    return "".join(
        ".*" if part == "..." else _WORDS[part.strip("\0")] if part.startswith("\0") else re.escape(part)
        for part in parts
    )


def assignments(block: str) -> dict[str, str]:
    """Return the variables that a block of assignments sets."""
    return {found[1]: found[2] for found in map(_ASSIGNMENT.fullmatch, block.splitlines()) if found}


def _asked(method: str, url: str, body: bytes | None, headers: Mapping[str, str], port: int) -> Printed:
    parts = urlsplit(url)
    assert parts.netloc == "127.0.0.1:8888", url
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
    response = connection.getresponse()
    printed = Printed(response.status, response.headers, response.read().decode())
    connection.close()
    return printed
