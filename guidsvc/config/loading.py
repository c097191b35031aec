"""The settings of the service: flags override environment variables, which override `.env`, which overrides defaults.

An unknown or invalid setting stops the start with one line that names the setting and the accepted values. A variable
with the suffix _FILE names a file with the value, such as a secret in a container; the value is never shown.
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
"""Prefix of variables that the tests read; the service ignores them."""
FILE_SUFFIX = "_FILE"
"""Suffix of a variable that names a file: GUIDSVC_STORE_URL_FILE names the file with the GUIDSVC_STORE_URL."""
ENV_FILE = ".env"

_YEAR = 366 * 24 * 3600
_VALUE_OF_SWITCH = re.compile(r"argument (--[\w-]+)/(--no-[\w-]+): ignored explicit argument .*", re.DOTALL)
"""The message of argparse for a flag that takes no value and was given one."""
_UNKNOWN_ARGUMENTS = re.compile(r"unrecognized arguments: ([^\s=]+)")
"""The message of argparse for unknown flags and surplus words, of which the first is captured."""


class Size(ByteSize):
    """A number of bytes, printed with its unit."""

    def __str__(self) -> str:
        """Return the size in the form 256MiB."""
        return self.human_readable().replace(".0", "")


class UsageError(StartError):
    """A flag is unknown, or lacks its value. The command exits with 2, as is usual for a wrong command line."""


class Settings(BaseSettings):
    """The settings, in the groups and the order in which `--help` and docs/configuration.md list them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        extra="ignore",  # other programs share the environment and .env; `load` checks the names with the prefix
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_parse_none_str="(none)",  # else the word None would be read as no value
        cli_exit_on_error=False,
    )

    # Listen
    host: Annotated[str, Field(min_length=1)] = Field(
        "127.0.0.1", description="address to listen on; 0.0.0.0 or :: is every address"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8888, description="TCP port to listen on; 0 picks a free one")
    unix_socket: str | None = Field(None, description="Unix socket to listen on, instead of an address and a port")
    server: Literal["httptools", "tornado"] = Field(
        "httptools", description="HTTP server: the one of this project, built on httptools, or Tornado's"
    )
    workers: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="number of serving processes; 2 or more run under a supervisor and need a redis:// cache"
    )
    hosts: str = Field(
        "", description="accepted host names besides loopback names, separated by commas: registry.example,10.0.0.5"
    )
    trusted_proxies: str = Field(
        "", description="proxies whose X-Forwarded-For and X-Forwarded-Proto are trusted: 10.0.0.0/8,127.0.0.1,unix"
    )
    cors_origins: str = Field(
        "", description="origins whose web pages may call the API (CORS): https://a.example,https://b.example:8443"
    )

    # TLS
    tls_cert: str | None = Field(None, description="PEM file with the certificate and its chain; enables TLS")
    tls_key: str | None = Field(None, description="PEM file with the private key of the certificate")

    # Storage
    store_url: str = Field(
        "sqlite:///guidsvc.db",
        description="database for the records: sqlite:///path or mongodb://host:27017/guidsvc",
        repr=False,  # it may contain a password
    )
    lifetime: Annotated[int, Field(ge=1, le=100 * _YEAR)] = Field(
        2_592_000, description="seconds from creation to expiry, if the client sends no expiry"
    )
    retention: Annotated[int, Field(ge=0, le=100 * _YEAR)] = Field(
        604_800, description="seconds that an expired GUID is stored and can be renewed; 0 deletes it at its expiry"
    )
    guid_version: Literal["4", "7"] = Field(
        "4", description="UUID version of generated GUIDs: 4 is random, 7 is sorted by creation time"
    )
    require_preconditions: bool = Field(
        False, description="reject a change of an existing record without If-Match or If-None-Match (status 428)"
    )

    # Cache
    cache_url: str = Field(
        "memory://",
        description="cache: memory:// of one process, or redis://host:6379/0 shared by all processes",
        repr=False,
    )
    cache_size: Annotated[Size, Field(ge=1)] = Field(
        Size(256 * 2**20),
        description="memory for cached records in each process, such as 64MiB or 1GiB; evicts the least recently used",
    )
    cache_status: bool = Field(
        False, description="report the source of a record in Cache-Status (RFC 9211): memory, Redis or store"
    )

    # Access control
    access: Literal["keys", "off"] | None = Field(
        None,
        description="access control: keys requires API keys, off admits anyone; must be set if other hosts can connect",
    )
    jwt_jwks: str = Field(
        "", description="file or https:// URL with the keys (JWKS) that sign JWT bearer tokens; empty accepts no tokens"
    )
    jwt_issuer: str = Field("", description="issuer of the accepted tokens (claim iss); required with a JWKS")
    jwt_audience: str = Field("", description="audience of the accepted tokens (claim aud); required with a JWKS")
    jwt_owner_claim: Annotated[str, Field(min_length=1)] = Field(
        "sub", description="claim of a token that names the owner of its records"
    )
    jwt_shared_owners: bool = Field(
        False, description="use that claim as the owner, without the issuer, so that tokens share owners with API keys"
    )
    jwt_require_at_jwt: bool = Field(
        False, description="accept only tokens of the type at+jwt, the access tokens of RFC 9068"
    )

    # Limits
    rate_limit: str = Field(
        "20000/second", description="requests of a caller, in all processes, such as 600/minute; empty is no limit"
    )
    login_limit: str = Field(
        "20/minute",
        description="failed logins of an address, in all processes, before it is locked out; empty is no limit",
    )
    quota: Annotated[int, Field(ge=0)] = Field(
        0, description="live GUIDs of an owner; 0 is no limit; with access off, all GUIDs belong to one owner"
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        10_000, description="open connections of a process; further ones are rejected"
    )
    max_in_progress: Annotated[int, Field(ge=1)] = Field(
        256, description="requests that a process executes at a time; others wait in a queue"
    )
    max_head_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = Field(
        16_384, description="bytes of a request line and its headers; there may be at most 100 headers"
    )
    max_incoming_bytes: Annotated[int, Field(ge=1024 * 1024)] = Field(
        67_108_864, description="bytes of unanswered requests that a process buffers, for all clients together"
    )
    max_unsent_bytes: Annotated[int, Field(ge=32 * 1024 * 1024)] = Field(
        134_217_728,
        description="bytes of unsent responses that a process buffers; beyond it, the slowest clients are disconnected",
    )
    temp_bytes_per_batch: Annotated[int, Field(ge=1)] = Field(
        64 * 1024 * 1024, description="bytes of temporary files of one batch"
    )
    temp_bytes: Annotated[int, Field(ge=1)] = Field(
        256 * 1024 * 1024, description="bytes of temporary files of all batches of a process"
    )
    receipt_bytes_per_owner: Annotated[int, Field(ge=1)] = Field(
        256 * 1024 * 1024,
        description="bytes of stored receipts of an owner's requests with an Idempotency-Key, each kept for 24 hours",
    )
    receipt_bytes: Annotated[int, Field(ge=1)] = Field(
        1024 * 1024 * 1024, description="bytes of stored receipts of all owners"
    )

    # Timeouts
    head_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        10.0, description="seconds for a client to send the headers of a request"
    )
    body_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        30.0, description="seconds for a client to send the body of a request, unless it is a stream of lines"
    )
    idle_timeout: Annotated[float, Field(gt=0, le=86_400)] = Field(
        75.0, description="seconds that a connection without a request stays open"
    )
    queue_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        1.0, description="seconds that a request may wait in the queue; one that would wait longer is rejected at once"
    )
    request_timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        5.0, description="seconds for a request, or for a part of a long one; writes already in the store complete"
    )
    batch_timeout: Annotated[float, Field(gt=0, le=86_400)] = Field(
        600.0, description="seconds for a batch of lines; later lines are not executed"
    )
    grace: Annotated[float, Field(ge=0, le=3600)] = Field(
        10.0, description="seconds for requests in flight to complete at shutdown; 0 does not wait"
    )

    # Logs and metrics
    access_log: bool = Field(True, description="log a line for each request")
    audit_log: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="log of writes and denials: a file, stderr or off; without it, stderr with --access keys"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="lowest level that is logged")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="format of log lines; auto is console on a terminal, else json"
    )
    public_metrics: bool = Field(False, description="serve /metrics to anyone, also with access control")
    server_timing: bool = Field(
        False, description="report the milliseconds spent in the store, in Redis and in total in Server-Timing"
    )


def load(arguments: Sequence[str]) -> Settings:
    """Return the settings. Raise UsageError for a bad flag, StartError for any other unknown or invalid setting."""
    words = list(arguments)
    _refuse_unknown()
    filed = _from_files()
    try:
        return Settings(_cli_parse_args=words, **filed)  # type: ignore[call-arg]  # the CLI source of pydantic takes it
    except SettingsError as error:
        raise UsageError(_usage_fault(str(error).removeprefix("error parsing CLI: "), words)) from None
    except ValidationError as error:
        raise StartError("; ".join(_fault_text(fault, filed) for fault in error.errors())) from None


def flag(setting: str) -> str:
    """Return the flag of a setting."""
    return f"--{setting.replace('_', '-')}"


def listed(setting: str) -> list[str]:
    """Return the items of a setting that is a list separated by commas."""
    return [each.strip() for each in setting.split(",") if each.strip()]


def _refuse_unknown() -> None:
    """Raise StartError for an unknown variable with the prefix: a misspelt GUIDSVC_STORE_URL must not use SQLite."""
    known = {*_VARIABLES, *_FILE_VARIABLES}
    for name in [*os.environ, *_names_in_file()]:
        variable = name.upper()
        if variable.startswith(PREFIX) and not variable.startswith(TEST_PREFIX) and variable not in known:
            hint = _suggestion(variable, known) or "; --help lists the settings"
            raise StartError(f"unknown setting {name} in the environment or in {ENV_FILE}{hint}")


def _suggestion(word: str, known: Collection[str]) -> str:
    """Return a question that suggests the nearest known word, or an empty string if none is near."""
    near = get_close_matches(word, known, n=1, cutoff=0.8)
    return f"; did you mean {near[0]}?" if near else ""


def _names_in_file() -> list[str]:
    """Return the names that `.env` sets. Raise StartError for a line that is not an assignment."""
    bindings = list(parse_stream(StringIO(_env_file())))
    for binding in bindings:
        if binding.error:
            raise StartError(f"{ENV_FILE}, line {binding.original.line}: not an assignment; write NAME=value")
    return [binding.key for binding in bindings if binding.key]


def _env_file() -> str:
    """Return the text of `.env`, or an empty string if it is missing. Raise StartError if it cannot be read."""
    try:
        return read_text(ENV_FILE)
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{ENV_FILE}: {getattr(error, 'strerror', None) or error}") from error


def _from_files() -> dict[str, Any]:
    """Return the settings whose value is in a file. Raise StartError for one that is set twice, or not readable."""
    in_file = dotenv_values(stream=StringIO(_env_file()))
    variables = {name.upper(): value for name, value in (in_file | os.environ).items()}
    named = {setting: variables[variable] for variable, setting in _FILE_VARIABLES.items() if variable in variables}
    return {setting: _read(setting, path or "", variables) for setting, path in named.items()}


def _read(setting: str, path: str, variables: Mapping[str, object]) -> str:
    """Return a setting from its file, without newlines at the end."""
    variable = PREFIX + setting.upper()
    if variable in variables:
        raise StartError(f"{variable}, {variable}{FILE_SUFFIX}: both are set; set only one of them")
    try:
        return read_text(path).rstrip("\n")
    except UnicodeDecodeError:
        why = "not UTF-8"  # the message of the error would show a byte
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
    raise StartError(f"{variable}{FILE_SUFFIX}: cannot read {path}: {why}")


def _fault_text(fault: ErrorDetails, hidden: Collection[str]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else "settings"
    message = fault["msg"][0].lower() + fault["msg"][1:]
    if name in {"settings", *hidden} or not isinstance(fault["input"], str):  # the input may be a secret
        return f"{name}: {message}"
    return f"{name}: {message}, not {redact(fault['input'])!r}"


def _usage_fault(text: str, words: Sequence[str]) -> str:
    """Return the message of the argument parser in plain words, with the URLs in it redacted."""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        text = text.replace(word, f"{name}{equals}{redact(value)}")
    switch = _VALUE_OF_SWITCH.fullmatch(text)
    if switch is not None:
        return f"{switch[1]} takes no value: use {switch[1]} or {switch[2]}"
    unknown = _UNKNOWN_ARGUMENTS.match(text)
    hint = "" if unknown is None else _suggestion(unknown[1], [*map(flag, Settings.model_fields)])
    return f"{text}{hint or '; --help lists the flags'}"


_VARIABLES = {PREFIX + name.upper(): name for name in Settings.model_fields}
_FILE_VARIABLES = {
    variable + FILE_SUFFIX: name for variable, name in _VARIABLES.items() if variable + FILE_SUFFIX not in _VARIABLES
}
"""Settings by the variable that names a file with their value."""
