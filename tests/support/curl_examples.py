"""Execute the curl examples of the docs without curl."""

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
_PLACEHOLDERS = {
    "GUID": "[0-9A-F]{32}",
    "CURSOR": "[A-Za-z0-9_-]+",
    "DATE": "[A-Z][a-z]{2}, [0-9A-Za-z :]+ GMT",
    "USER": '[^"]+',
    "ID": "[0-9A-Za-z]{12}",
    "KEY": "gs_[0-9A-Za-z_]{63}",
    "REQUEST": "[0-9a-f]{32}",
} | dict.fromkeys(["VERSION", "EXPIRE", "TIME", "MS", "SECONDS", "YEARS", "NUMBER"], "[0-9]+")  # fmt: skip


class Printed(NamedTuple):
    """A response of the service, with the text that curl would print."""

    status: int
    headers: HTTPMessage
    text: str


class Request(NamedTuple):
    """The request of a curl command; `body` is text, or `@` and a file name; `target` is the file for the response."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: str | None
    target: str | None


def parse(line: str, variables: Mapping[str, str]) -> Request:
    """Return the request of a line of the docs, with shell variables replaced."""
    arguments = iter(shlex.split(_substituted(line, variables)))
    assert next(arguments) == "curl"
    method, body, headers, url, target = "GET", None, {}, "", None
    for argument in arguments:
        if argument == "-X":
            method = next(arguments)
        elif argument == "-H":
            name, _, value = next(arguments).partition(": ")
            headers[name] = value
        elif argument in {"-d", "--data-binary"}:
            body = next(arguments)
        elif argument == "-s":  # no progress, which is not printed here anyway
            continue
        elif argument == ">":
            target = next(arguments)
        else:
            assert not argument.startswith("-"), f"{argument} in {line}"
            url = argument
    return Request(method, url, headers, body, target)


def run(line: str, port: int, folder: Path, variables: Mapping[str, str] | None = None) -> Printed:
    """Execute a line of the docs against this port, with files in this folder and shell variables."""
    request = parse(line, variables or {})
    headers, body = dict(request.headers), None
    if request.body is not None:
        body = (folder / request.body[1:]).read_bytes() if request.body.startswith("@") else request.body.encode()
        headers.setdefault("Content-Type", "application/x-www-form-urlencoded")
    printed = _send(request.method, request.url, body, headers, port)
    if request.target is not None:
        (folder / request.target).write_text(printed.text)
        return printed._replace(text="")
    return printed


def run_assignment(line: str, port: int, folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Execute `NAME=$(curl ... | sed ...)`; return the variable that it sets."""
    match = _PIPED.fullmatch(line)
    assert match is not None, line
    text = run(match[2], port, folder, variables).text
    program = shlex.split(match[3])
    assert program[0] == "sed"
    return {match[1]: subprocess.run(program, input=text, capture_output=True, text=True, check=True).stdout.strip()}


def _substituted(line: str, variables: Mapping[str, str]) -> str:
    """Substitute variables like a shell, except within single quotes."""
    parts = re.split(r"('[^']*')", line)
    for index in range(0, len(parts), 2):
        parts[index] = re.sub(r"\$(\w+)", lambda variable: variables[variable[1]], parts[index])
    return "".join(parts)


def pattern(documented: str) -> str:
    """Return the regular expression of a response in the docs: `<...>` stands for a value, `...` for any text."""
    exact = re.sub(r"<([A-Z]+)>", lambda placeholder: f"\0{placeholder[1]}\0", documented)
    parts = re.split(r"(\.\.\.|\0[A-Z]+\0)", exact)
    return "".join(
        ".*" if part == "..." else _PLACEHOLDERS[part.strip("\0")] if part.startswith("\0") else re.escape(part)
        for part in parts
    )


def assignments(block: str) -> dict[str, str]:
    """Return the variables that a block of assignments sets."""
    return {match[1]: match[2] for match in map(_ASSIGNMENT.fullmatch, block.splitlines()) if match}


def _send(method: str, url: str, body: bytes | None, headers: Mapping[str, str], port: int) -> Printed:
    parts = urlsplit(url)
    assert parts.netloc == "127.0.0.1:8888", url
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, parts.path + (f"?{parts.query}" if parts.query else ""), body, headers)
    response = connection.getresponse()
    printed = Printed(response.status, response.headers, response.read().decode())
    connection.close()
    return printed
