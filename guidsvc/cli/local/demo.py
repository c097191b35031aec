"""`guidsvc demo`: sample records in the service on this host, and their removal."""

import json
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import OK, HTTPException
from itertools import cycle, islice
from secrets import token_hex
from typing import Any, NamedTuple
from urllib.parse import quote

import click

from guidsvc.cli.exit_codes import FAILED, TRY_AGAIN, UNKNOWN, CommandFailed, code_of_status
from guidsvc.cli.local.container import with_container_flags
from guidsvc.cli.parsing.command import SettingsCommand
from guidsvc.cli.parsing.value_types import Parsed
from guidsvc.cli.remote.wording import spoken
from guidsvc.cli.rendering import Rendering, output_options
from guidsvc.cli.setting_sources import setting_sources
from guidsvc.config import Settings, flag
from guidsvc.doctor import http_probe
from guidsvc.doctor.service import KEY_VARIABLE, key_of_environment
from guidsvc.errors import StartError
from guidsvc.program import runnable

USER = "guidsvc demo"
"""The user of all sample records, by which they are found and removed."""
MAX_COUNT, PER_REQUEST = 10_000, 500
"""Maximum number of sample records; and of operations of a request."""
RESPONSE_BYTES, SECONDS = 4 * 1024 * 1024, 60.0
"""Limits of a response."""
_ADDRESS = ("host", "port", "unix_socket", "tls_cert", "tls_key")
_HOUR, _DAY = 3600, 24 * 3600


class Kind(NamedTuple):
    """A kind of record: its expiry in seconds from now, or 0 to revoke it; and its metadata."""

    name: str
    expires_in: int
    metadata: dict[str, Any] | None = None


KINDS = (
    Kind("live", 30 * _DAY, {"service": "billing", "env": "prod"}),
    Kind("without metadata", 7 * _DAY),
    Kind("expires within the hour", _HOUR // 2, {"service": "search", "env": "test"}),
    Kind("lease of five minutes", 300, {"worker": "host-7", "task": "nightly export"}),
    Kind("valid for years", 10 * 365 * _DAY, {"device": {"model": "S-200", "room": "Zürich 4"}, "tags": ["a", "b"]}),
    Kind("expired, and can be renewed", -2 * _HOUR, {"service": "billing", "env": "test"}),
    Kind("revoked", 0, {"note": "leaked"}),
)
"""The sample records take these kinds in turn."""


def _count(text: str) -> int:
    """Return a number of records."""
    count = int(text.lstrip("0")[:20] or "0") if text.isascii() and text.isdecimal() else 0
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"must be a whole number from 1 to {MAX_COUNT}")
    return count


@click.command(
    "demo",
    cls=SettingsCommand,
    short_help="create sample GUIDs of all kinds, or remove them",
    help=f"Create sample records of all kinds in the service on this host, or remove them. All have the user "
    f"{USER!r}; their owner is that of your key.",
    options_metavar="[OPTIONS] [ADDRESS OF THE SERVICE]",
    notes=f"The service must run. Its address is found by its flags, variables and .env. With access control, set "
    f"{KEY_VARIABLE} to a key with the scopes read, write and delete.",
    examples=["demo", "demo --count 1000 --port 9000", "demo --remove"],
)
@click.option(
    "--count",
    type=Parsed("NUMBER", _count),
    default=200,
    metavar="NUMBER",
    help=f"number of records, at most {MAX_COUNT} [default: 200]",
)
@click.option("--remove", is_flag=True, help=f"remove all records of the user {USER!r} instead")
@output_options
@click.pass_context
def demo(ctx: click.Context, *, count: int, remove: bool, rendering: Rendering) -> None:
    """Create or remove the records."""
    from guidsvc.bootstrap import validation

    settings = validation.load(with_container_flags(ctx.args))
    service = _Service(settings)
    if remove:
        rendering.record({"removed": _remove(service)})
    else:
        rendering.record(_create(service, count))
        rendering.tell(_hint(settings, _address_flags(settings, ctx.args)))


class _Service:
    """The service on this host."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.url = http_probe.where(settings, "")

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Return the members of the response; raise StartError if it fails. One with a body changes records."""
        headers = {"Content-Type": "application/json", "Prefer": "return=minimal"}
        text = b"" if body is None else json.dumps(body).encode()
        request = http_probe.Request(method, path, key_of_environment(), headers, text)
        try:
            response = http_probe.send(self._settings, request, max_bytes=RESPONSE_BYTES, seconds=SECONDS)
        except (OSError, HTTPException) as error:
            reason, hint = http_probe.reason(error), http_probe.hint(self._settings, error)
            code = UNKNOWN if body is not None and not http_probe.is_unsent(error) else TRY_AGAIN
            raise CommandFailed(f"demo: {self.url}: {reason}{hint}", code) from error
        members = http_probe.members_of(response.body)
        if not members:
            raise self._foreign()
        if response.status != OK:
            raise self._failure(members, response.status)
        return members

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Raise StartError if the block finds other members in a response than those of the service."""
        try:
            yield
        except (LookupError, TypeError, AttributeError) as error:
            raise self._foreign() from error

    def _foreign(self) -> StartError:
        return StartError(f"demo: {self.url}: another program answers; name the --port of the service")

    def _failure(self, problem: Mapping[str, Any], status: int) -> CommandFailed:
        with self.reading():
            return CommandFailed(f"demo: {self.url}: {_problem(problem)}", code_of_status(status))

    def execute(self, operations: Sequence[dict[str, Any]]) -> None:
        """Execute operations; raise StartError, with the first problem, if any fails."""
        members = self.call("POST", "/guid:batch", {"operations": operations})
        with self.reading():
            results = members["results"]
            if len(results) != len(operations):
                raise self._foreign()
            for result in results:
                if "problem" in result:
                    raise self._failure(result["problem"], result["status"])


def _problem(members: Mapping[str, Any]) -> str:
    """Return the text of a problem, with a remedy if the key is missing or insufficient."""
    hint = f"; set {KEY_VARIABLE} to a key with the scopes read, write and delete"
    is_about_key = members.get("code") in {"unauthorized", "forbidden"}
    text = spoken(str(members.get("detail") or members.get("title")))
    return f"{text.removesuffix('.')}{hint}" if is_about_key else text


def _create(service: _Service, count: int) -> dict[str, int]:
    """Create the records, and return their number by kind."""
    created: Counter[str] = Counter()
    kinds = cycle(KINDS)
    while created.total() < count:
        part = list(islice(kinds, min(PER_REQUEST, count - created.total())))
        service.execute([_operation(kind) for kind in part])
        created.update(kind.name for kind in part)
    return dict(created)


def _operation(kind: Kind) -> dict[str, Any]:
    expire = int(time.time()) + kind.expires_in if kind.expires_in else 0
    members = {"guid": token_hex(16).upper(), "user": USER, "expire": expire, "if_none_match": "*"}
    return members if kind.metadata is None else members | {"metadata": kind.metadata}


def _remove(service: _Service) -> int:
    """Remove all sample records that the caller sees, and return their number."""
    removed = 0
    for guids in _pages(service):
        service.execute([{"op": "delete", "guid": guid} for guid in guids])
        removed += len(guids)
    return removed


def _pages(service: _Service) -> Iterator[list[str]]:
    """Yield the GUIDs of the sample records. The cursor stays valid while they are deleted."""
    query = f"/guid?user={quote(USER)}&state=all&limit={PER_REQUEST}"
    path: str | None = query
    read_paths: set[str] = set()
    while path is not None:
        read_paths.add(path)
        page = service.call("GET", path)
        with service.reading():
            guids = [item["guid"] for item in page["items"]]
            path = None if page["next"] is None else f"{query}&cursor={quote(page['next'])}"
        if guids:
            yield guids
        if path in read_paths:
            raise CommandFailed(
                f"demo: {service.url}: the list of GUIDs would never end: a page leads back to an earlier one", FAILED
            )


def _hint(settings: Settings, flags: Sequence[str]) -> str:
    """Return the commands that show and remove the records, with the flags of the service."""
    if settings.unix_socket is not None:
        query = http_probe.where(settings, f"/guid?user={quote(USER)}").partition(" at ")[0]
        look = shlex.join(["curl", "--unix-socket", settings.unix_socket, query])
    else:
        look = f"{runnable('ls')} {shlex.join(['--url', http_probe.where(settings, ''), '--user', USER])}"
    remove = runnable(shlex.join(["demo", "--remove", *flags]))
    return f"look at them: {look}\nremove them: {remove}"


def _address_flags(settings: Settings, words: Sequence[str]) -> list[str]:
    """Return the flags among the words that name the address of the service, as a later command needs them."""
    sources = setting_sources(words)
    given = [name for name in _ADDRESS if sources.origin(name).kind == "flag"]
    return [word for name in given for word in (flag(name), str(getattr(settings, name)))]
