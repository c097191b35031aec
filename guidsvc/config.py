"""Settings: flags over environment over `.env` over defaults. Read by app and pdapt only.

An unknown or bad value stops the start, with one line that names the setting and says what it takes. What a variable
would hold can be in a file that a variable names, as secrets are handed to containers: it is never shown.
"""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from io import StringIO
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import ByteSize, Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from guidsvc.bounded_file import read_text
from guidsvc.connection_urls import redact
from guidsvc.errors import StartError

PREFIX = "GUIDSVC_"
TEST_PREFIX = "GUIDSVC_TEST_"
"""Of names that the tests read, not the service."""
FILE_SUFFIX = "_FILE"
"""GUIDSVC_STORE_URL_FILE names the file that GUIDSVC_STORE_URL is in."""
ENV_FILE = ".env"

_YEAR = 366 * 24 * 3600
_VALUE_OF_SWITCH = re.compile(r"argument (--[\w-]+)/(--no-[\w-]+): ignored explicit argument .*", re.DOTALL)
"""What argparse says of a value for a flag that takes none."""


class Size(ByteSize):
    """A number of bytes, which is shown with its unit."""

    def __str__(self) -> str:
        """Return it as 256MiB."""
        return self.human_readable().replace(".0", "")


class Settings(BaseSettings):
    """Run guidsvc, a registry of GUIDs that expire. Each flag is a variable too: --store-url is GUIDSVC_STORE_URL.

    Commands: `serve`, or none, starts the service; `backup` copies the SQLite store; `healthcheck` asks whether a
    running service is alive or ready; `keys` makes, lists, rotates and revokes API keys. Each explains itself with
    --help, and `--version` prints the version.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        extra="ignore",  # others share the environment and .env; names with our prefix are checked in `load`
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_parse_none_str="(none)",  # what --help shows; by default the word None is read as no value
        cli_exit_on_error=False,
    )

    host: Annotated[str, Field(min_length=1)] = Field("127.0.0.1", description="address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8888, description="port to listen on; 0 takes a free one")
    unix_socket: str | None = Field(None, description="Unix socket to listen on, in place of address and port")
    tls_cert: str | None = Field(None, description="file of the certificate and its chain, in PEM: turns TLS on")
    tls_key: str | None = Field(None, description="file of the key of that certificate, in PEM")
    trusted_proxies: str = Field(
        "", description="whose X-Forwarded-For and X-Forwarded-Proto are believed: 10.0.0.0/8,127.0.0.1,unix"
    )
    hosts: str = Field(
        "",
        description="host names that requests may be addressed to, beside loopback names: registry.example,10.0.0.5",
    )
    cors_origins: str = Field(
        "", description="whose pages may ask in a browser (CORS): https://a.example,https://b.example:8443"
    )
    head_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        10.0, description="seconds in which a client sends the headers of a request"
    )
    body_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        30.0, description="seconds in which it sends the body, where that is not lines"
    )
    idle_timeout: Annotated[float, Field(gt=0, le=86_400)] = Field(
        75.0, description="seconds for which a connection is kept without a request"
    )
    max_head_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = Field(
        16_384, description="the most bytes of a request line and its headers; there are at most 100 headers"
    )
    max_incoming_bytes: Annotated[int, Field(ge=1024 * 1024)] = Field(
        67_108_864, description="the most bytes of unanswered requests that a process holds, of all clients together"
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        10_000, description="the most connections at a time; more are refused"
    )
    max_unsent_bytes: Annotated[int, Field(ge=32 * 1024 * 1024)] = Field(
        134_217_728,
        description="the most bytes of answers that wait in a process for clients; beyond it the slowest are reset",
    )
    max_in_progress: Annotated[int, Field(ge=1)] = Field(
        256, description="the most requests that are worked on at a time; others wait for their turn"
    )
    queue_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        1.0, description="seconds for which a request waits for its turn; where that is foreseen it is refused at once"
    )
    request_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        5.0, description="seconds that a request, or a part of a long one, has; what the store has by then is finished"
    )
    batch_timeout: Annotated[float, Field(gt=0, le=86_400)] = Field(
        600.0, description="seconds in which a batch of lines must end; lines that come later are not done"
    )
    temp_bytes_per_batch: Annotated[int, Field(ge=1)] = Field(
        64 * 1024 * 1024, description="the most bytes of temporary files for one batch: its results, what it validates"
    )
    temp_bytes: Annotated[int, Field(ge=1)] = Field(
        256 * 1024 * 1024, description="the most bytes of temporary files for all batches of a process"
    )
    receipt_bytes_per_owner: Annotated[int, Field(ge=1)] = Field(
        256 * 1024 * 1024,
        description="the most bytes in the store for an owner's requests with an Idempotency-Key, kept for 24 hours",
    )
    receipt_bytes: Annotated[int, Field(ge=1)] = Field(
        1024 * 1024 * 1024, description="the most bytes in the store for those of all owners"
    )
    server: Literal["httptools", "tornado"] = Field(
        "httptools", description="what reads HTTP: our own connection layer on httptools, or Tornado's server"
    )
    rate_limit: str = Field(
        "20000/second",
        description="the most requests of a caller, in all processes: 600/minute, or nothing for no limit",
    )
    login_limit: str = Field(
        "20/minute", description="the most failed log-ins of an address, in all processes, before it is locked out"
    )
    workers: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="processes that serve, under a supervisor; more than one need a redis:// that they share"
    )
    access: Literal["keys", "off"] | None = Field(
        None, description="who may ask: holders of keys, or (off) anybody; must be said unless only this host can ask"
    )
    quota: Annotated[int, Field(ge=0)] = Field(
        0,
        description="the most live GUIDs of an owner, 0 for any number; with access off all GUIDs have one owner",
    )
    public_metrics: bool = Field(False, description="show /metrics to all, where access is controlled too")
    store_url: str = Field(
        "sqlite:///guidsvc.db",
        description="where records are kept: sqlite:///path or mongodb://host:27017/guidsvc",
        repr=False,  # it may hold a password
    )
    cache_url: str = Field(
        "memory://",
        description="the cache: memory:// of this process, or redis://host:6379/0 shared by many",
        repr=False,
    )
    cache_size: Annotated[Size, Field(ge=1)] = Field(
        Size(256 * 2**20),
        description="the most memory for records in each process, as 64MiB or 1GiB; the least recently used go first",
    )
    lifetime: Annotated[int, Field(ge=1, le=100 * _YEAR)] = Field(
        2_592_000, description="seconds from creation to expiry, where the client names none (30 days)"
    )
    retention: Annotated[int, Field(ge=0, le=100 * _YEAR)] = Field(
        604_800, description="seconds for which an expired GUID is kept and can be renewed (7 days)"
    )
    guid_version: Literal["4", "7"] = Field(
        "4", description="how GUIDs are drawn: random (UUID version 4), or sorted by time (version 7)"
    )
    require_preconditions: bool = Field(
        False, description="refuse (428) to change an existing record without If-Match or If-None-Match"
    )
    cache_status: bool = Field(False, description="say in Cache-Status (RFC 9211) where a record came from")
    server_timing: bool = Field(False, description="say in Server-Timing how long store, Redis and all of it took")
    jwt_jwks: str = Field(
        "",
        description="file or https:// URL of the keys (JWKS) that JWT bearer tokens are signed with; none: no tokens",
    )
    jwt_issuer: str = Field("", description="who issues these tokens: the `iss` of each")
    jwt_audience: str = Field("", description="whom they are for: an `aud` of each")
    jwt_owner_claim: Annotated[str, Field(min_length=1)] = Field(
        "sub", description="the claim of a token that names the owner of what it creates"
    )
    jwt_shared_owners: bool = Field(
        False, description="take that claim alone as the owner, without the issuer: tokens and keys share their owners"
    )
    jwt_require_at_jwt: bool = Field(
        False, description="take a token only if its type (typ) is at+jwt, an access token as RFC 9068 has it"
    )
    access_log: bool = Field(True, description="log a line for each request")
    audit_log: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="who did what to which GUID: to a file, stderr, or off; none: stderr if access is controlled"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is logged")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="log lines to read, or JSON; auto: to read on a terminal"
    )
    grace: Annotated[float, Field(ge=0, le=3600)] = Field(
        10.0, description="seconds that requests under way have to finish when the service is told to stop"
    )


def load(arguments: Sequence[str], *, program: str = "guidsvc") -> Settings:
    """Read the settings; StartError, of one line, for what is unknown or bad.

    `--help` prints them all, as those of this program, and exits.
    """
    words = list(arguments)
    filed: dict[str, Any] = {"_env_file": None}  # which may be anything, and `--help` needs nothing of it
    if not {"-h", "--help"} & set(words):
        _refuse_unknown()
        filed = _from_files()
    try:
        return Settings(_cli_parse_args=words, _cli_prog_name=program, **filed)  # type: ignore[call-arg]  # how it is given its arguments
    except SettingsError as error:
        text = _shown(str(error).removeprefix("error parsing CLI: "), words)  # it quotes them
        raise StartError(_VALUE_OF_SWITCH.sub(r"\1 takes no value: use \1 or \2", text)) from None
    except ValidationError as error:
        raise StartError("; ".join(_told(fault, filed) for fault in error.errors())) from None


def listed(setting: str) -> list[str]:
    """Return what a setting lists, between commas."""
    return [each.strip() for each in setting.split(",") if each.strip()]


def _refuse_unknown() -> None:
    """Stop at a name with our prefix that is no setting: a misspelt GUIDSVC_STORE_URL must not start on SQLite."""
    known = {*_VARIABLES, *_FILE_VARIABLES}
    for name in [*os.environ, *_names_in_file()]:
        whole = name.upper()
        if whole.startswith(PREFIX) and not whole.startswith(TEST_PREFIX) and whole not in known:
            near = get_close_matches(whole, known, n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else "; see --help for those that are"
            raise StartError(f"{name} (environment or {ENV_FILE}) is no setting{hint}")


def _names_in_file() -> list[str]:
    """Return the names that the file sets; StartError for a line that sets none, which would pass unnoticed."""
    bindings = list(parse_stream(StringIO(_env_file())))
    for binding in bindings:
        if binding.error:
            raise StartError(f"{ENV_FILE}, line {binding.original.line}: is no NAME=value")
    return [binding.key for binding in bindings if binding.key]


def _env_file() -> str:
    """Return the text of the file, empty if there is none; StartError if it cannot be read."""
    try:
        return read_text(ENV_FILE)
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{ENV_FILE}: {getattr(error, 'strerror', None) or error}") from error


def _from_files() -> dict[str, Any]:
    """Return the settings whose variables name a file; StartError for one that is set otherwise too, or no text."""
    in_file = dotenv_values(stream=StringIO(_env_file()))
    given = {name.upper(): value for name, value in (in_file | os.environ).items()}
    named = {setting: given[variable] for variable, setting in _FILE_VARIABLES.items() if variable in given}
    return {setting: _read(setting, path or "", given) for setting, path in named.items()}


def _read(setting: str, path: str, given: Mapping[str, object]) -> str:
    """Read a setting from its file, less the end of its last line."""
    variable = PREFIX + setting.upper()
    if variable in given:
        raise StartError(f"{variable}, {variable}{FILE_SUFFIX}: both are set, and only one can count")
    try:
        return read_text(path).rstrip("\n")
    except UnicodeDecodeError:
        why = "this is no UTF-8"  # of which not even a byte is shown
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise StartError(f"{variable}{FILE_SUFFIX}: {path}: {why}")


def _told(fault: ErrorDetails, hidden: Collection[str]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else "settings"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    if name in {"settings", *hidden} or not isinstance(fault["input"], str):  # of them all it would show all
        return f"{name}: {message}"
    return f"{name}: {message}, not {redact(fault['input'])!r}"


def _shown(text: str, words: Sequence[str]) -> str:
    """Return what is said of the words of a command with each URL among them as it may be shown."""
    for word in words:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        text = text.replace(word, f"{flag}{equals}{redact(value)}")
    return text


_VARIABLES = {PREFIX + name.upper(): name for name in Settings.model_fields}
_FILE_VARIABLES = {
    variable + FILE_SUFFIX: name for variable, name in _VARIABLES.items() if variable + FILE_SUFFIX not in _VARIABLES
}
"""Which settings they are of."""
