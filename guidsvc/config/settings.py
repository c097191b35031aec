"""The table of the settings: type, default and description of each."""

import re
from hashlib import sha256
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from guidsvc.domain.durations import parse_duration
from guidsvc.foreign_variables import is_foreign

PREFIX = "GUIDSVC_"
ENV_FILE = ".env"

_YEAR = 366 * 24 * 3600
_MIN_CACHE_BYTES = 1024 * 1024
_MIN_LOG_BYTES = 64 * 1024
_PLAIN_NUMBER = re.compile(r"\s*[+-]?[0-9][0-9_.eE+-]*\s*")


class Size(ByteSize):
    """A number of bytes, printed with its unit."""

    def __str__(self) -> str:
        """Return the size in the form 256MiB."""
        return self.human_readable().replace(".0", "")


def _seconds(value: object) -> object:
    """Return the seconds of a duration with a unit, such as 30m. Pydantic validates plain numbers and other types."""
    if not isinstance(value, str) or _PLAIN_NUMBER.fullmatch(value):
        return value
    return parse_duration(value)


def _cache_bytes(value: Size) -> Size:
    """Return the size of the cache. A few bytes hold no record: they were probably meant as mebibytes."""
    if 0 < value < _MIN_CACHE_BYTES:
        raise ValueError("must be 0 (no cache) or at least 1MiB")
    return value


def _log_bytes(value: Size) -> Size:
    """Return the size of the event log. A log of a few bytes keeps no event for a reader to catch up."""
    if value < _MIN_LOG_BYTES:
        raise ValueError(f"must be at least {_MIN_LOG_BYTES // 1024}KiB")
    return value


_MANY = 10**15
"""Upper bound of numbers that need no lower one; as bytes, a petabyte. The stores have numbers of 64 bits."""
WholeSeconds = Annotated[int, BeforeValidator(_seconds)]
Seconds = Annotated[float, BeforeValidator(_seconds)]
"""Durations in seconds, written as a number or with a unit."""


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
        cli_parse_none_str="(none)",  # otherwise the word None would be parsed as no value
        cli_exit_on_error=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic passes it
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, without the variables of other programs: Kubernetes may set GUIDSVC_PORT."""
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                source.env_vars = {
                    name: value for name, value in source.env_vars.items() if not is_foreign(name.upper(), value)
                }
        return init_settings, env_settings, dotenv_settings, file_secret_settings

    @property
    def fingerprint(self) -> str:
        """A short text that differs between different settings."""
        return sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def store_fingerprint(self) -> str:
        """A short text that differs between different stores. It hides the password in a URL."""
        return sha256(self.store_url.encode(errors="surrogateescape")).hexdigest()[:16]

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
    public_url: str = Field(
        "",
        description="address under which clients reach the service, for the type of errors and for commands on pages: "
        "https://registry.example",
    )
    console: bool = Field(True, description="serve the console at /console, pages where people find and change GUIDs")
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
    lifetime: Annotated[WholeSeconds, Field(ge=1, le=100 * _YEAR)] = Field(
        2_592_000, description="seconds from creation to expiry, if the client sends no expiry"
    )
    retention: Annotated[WholeSeconds, Field(ge=0, le=100 * _YEAR)] = Field(
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
        description="cache: memory:// of a process that uses the store alone, or redis://host:6379/0 shared by all "
        "processes",
        repr=False,
    )
    cache_size: Annotated[Size, Field(ge=0, le=_MANY), AfterValidator(_cache_bytes)] = Field(
        Size(256 * 2**20),
        description="memory for cached records in each process, such as 64MiB or 1GiB; 0 caches none",
    )
    max_age: Annotated[WholeSeconds, Field(ge=0, le=_YEAR)] = Field(
        0,
        description="seconds for which clients may cache a GUID; they see a revocation up to this much later; 0 makes "
        "them revalidate each time",
    )
    cache_status: bool = Field(
        False, description="report the source of a record in Cache-Status (RFC 9211): memory, Redis or store"
    )

    # Events
    events: Literal["all", "changes", "off"] = Field(
        "all", description="events in the event log: all, changes without renewals, or none (off)"
    )
    events_retention: Annotated[WholeSeconds, Field(ge=1, le=100 * _YEAR)] = Field(
        604_800, description="seconds that an event is kept"
    )
    events_size: Annotated[Size, Field(ge=0, le=_MANY), AfterValidator(_log_bytes)] = Field(
        Size(2**30),
        description="maximum size of the event log; beyond it, the oldest events of the largest owners are removed",
    )
    warn_before: str = Field(
        "604800,86400",
        description="how long before its expiry a GUID gets the event guid.expiring: up to 4 durations, separated by "
        "commas; empty is never",
    )
    max_streams: Annotated[int, Field(ge=1, le=_MANY)] = Field(
        500,
        description="streams of events of a process, and requests that wait for events; a caller may have a sixteenth, "
        "at least 1",
    )

    # Access control
    access: Literal["keys", "off"] | None = Field(
        None,
        description="access control: keys requires API keys, off admits anyone; must be set if other hosts can connect",
    )
    jwt_jwks: str = Field(
        "",
        description="file or https:// URL with the keys (JWKS) that sign JWT bearer tokens; empty accepts no tokens; "
        "needs --access keys",
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
        "20000/second",
        description="requests of each key, in all processes, such as 600/minute; empty is no limit; needs "
        "--access keys",
    )
    login_limit: str = Field(
        "20/minute",
        description="failed logins of an address, in all processes, before it is locked out; empty is no limit; needs "
        "--access keys",
    )
    quota: Annotated[int, Field(ge=0, le=_MANY)] = Field(
        0, description="live GUIDs of an owner; 0 is no limit; with access off, all GUIDs belong to one owner"
    )
    max_ttl: Annotated[WholeSeconds, Field(ge=0, le=100 * _YEAR)] = Field(
        0, description="maximum lifetime that a write may give a GUID, in seconds from now; 0 is no limit"
    )
    max_life: Annotated[WholeSeconds, Field(ge=0, le=100 * _YEAR)] = Field(
        0, description="maximum lifetime of a GUID, in seconds from its creation, including renewals; 0 is no limit"
    )
    max_connections: Annotated[int, Field(ge=1, le=_MANY)] = Field(
        10_000, description="open connections of a process; further ones are rejected"
    )
    max_in_progress: Annotated[int, Field(ge=1, le=_MANY)] = Field(
        256, description="requests that a process executes at a time; others wait in a queue"
    )
    max_head_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = Field(
        16_384, description="bytes of a request line and its headers; there may be at most 100 headers"
    )
    max_incoming_bytes: Annotated[int, Field(ge=1024 * 1024, le=_MANY)] = Field(
        67_108_864, description="memory of unanswered requests in a process, in bytes, for all clients together"
    )
    max_unsent_bytes: Annotated[int, Field(ge=32 * 1024 * 1024, le=_MANY)] = Field(
        134_217_728,
        description="bytes of unsent responses that a process buffers; beyond it, the slowest clients are disconnected",
    )
    temp_bytes_per_batch: Annotated[int, Field(ge=1, le=_MANY)] = Field(
        64 * 1024 * 1024, description="bytes of temporary files of one batch"
    )
    temp_bytes: Annotated[int, Field(ge=1, le=_MANY)] = Field(
        256 * 1024 * 1024, description="bytes of temporary files of all batches of a process"
    )
    receipt_bytes_per_owner: Annotated[int, Field(ge=1, le=_MANY)] = Field(
        256 * 1024 * 1024,
        description="bytes of stored receipts of an owner's requests with an Idempotency-Key, each kept for 24 hours",
    )
    receipt_bytes: Annotated[int, Field(ge=1, le=_MANY)] = Field(
        1024 * 1024 * 1024, description="bytes of stored receipts of all owners"
    )

    # Timeouts
    head_timeout: Annotated[Seconds, Field(gt=0, le=3600)] = Field(
        10.0, description="seconds for a client to send the headers of a request"
    )
    body_timeout: Annotated[Seconds, Field(gt=0, le=3600)] = Field(
        30.0, description="seconds for a client to send the body of a request, unless it is a stream of lines"
    )
    idle_timeout: Annotated[Seconds, Field(gt=0, le=86_400)] = Field(
        75.0, description="seconds that a connection without a request stays open"
    )
    queue_timeout: Annotated[Seconds, Field(gt=0, le=3600)] = Field(
        1.0, description="seconds that a request may wait in the queue; one that would wait longer is rejected at once"
    )
    request_timeout: Annotated[Seconds, Field(gt=0, le=3600)] = Field(
        5.0, description="seconds for a request, or for a part of a long one; writes already in the store complete"
    )
    batch_timeout: Annotated[Seconds, Field(gt=0, le=86_400)] = Field(
        600.0, description="seconds for a batch of lines, and again for its response; later lines are not executed"
    )
    grace: Annotated[Seconds, Field(ge=0, le=3600)] = Field(
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
    public_metrics: bool = Field(False, description="serve /metrics to anyone, even with access control")
    server_timing: bool = Field(
        False, description="report the milliseconds spent in the store, in Redis and in total in Server-Timing"
    )
    tracing: Literal["off", "otlp"] = Field(
        "off", description="export OpenTelemetry traces; OTEL_* variables say where to, and which requests are sampled"
    )


def flag(setting: str) -> str:
    """Return the flag of a setting."""
    return f"--{setting.replace('_', '-')}"


LISTS = ("hosts", "trusted_proxies", "cors_origins", "warn_before")
"""The settings that are lists separated by commas."""


def split_list(setting: str) -> list[str]:
    """Return the items of a setting that is a list separated by commas."""
    return [each.strip() for each in setting.split(",") if each.strip()]


FLAGS = frozenset(
    {
        *map(flag, Settings.model_fields),
        *(f"--no-{flag(name)[2:]}" for name, field in Settings.model_fields.items() if field.annotation is bool),
    }
)
"""The flags of the settings, with the negative forms that switches have."""
