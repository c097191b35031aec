"""Check all settings before anything is opened, whether or not they have an effect, and name those without effect.

Nothing here connects, listens or creates a file. Each check raises StartError for the settings that it names, and is
left out if one of these is already known to be invalid.
"""

from collections.abc import Iterator, Sequence
from errno import EISDIR, ENOENT
from functools import partial
from os import strerror
from pathlib import Path
from typing import NamedTuple

from guidsvc.auth.audit_log import OFF, STDERR
from guidsvc.auth.tokens.jwt_bearer import JwtTrustPolicy
from guidsvc.bootstrap.auth import ACCESS_SETTINGS, TOKEN_SETTINGS, is_controlled, limit_of, refuse_unguarded
from guidsvc.bootstrap.events import EVENT_SETTINGS, event_policy
from guidsvc.cache import is_private, validate_cache_url
from guidsvc.config import LISTS, Check, Settings, load_valid, split_list
from guidsvc.connection_urls import scheme_of
from guidsvc.errors import StartError, write_fault
from guidsvc.http import public_url
from guidsvc.http.headers.cors import Cors
from guidsvc.http.headers.host import HostNames
from guidsvc.http.headers.proxy import UNIX, TrustedProxies
from guidsvc.optional_imports import requires_extra
from guidsvc.server.tls import validate_tls
from guidsvc.store import validate_store_url


class Unused(NamedTuple):
    """A setting without effect in this combination of settings, and the reason."""

    setting: str
    reason: str


def load(words: Sequence[str]) -> Settings:
    """Return the settings, validated. Raise InvalidSettings, which lists all faults, if any is invalid."""
    return load_valid(words, _CHECKS)


def unused(settings: Settings) -> Iterator[Unused]:
    """Yield the valid settings that differ from their defaults without any effect."""
    if settings.access == "off":
        yield from _changed(settings, (*ACCESS_SETTINGS, "public_metrics"), "access is off")
    elif not settings.jwt_jwks:
        yield from _changed(settings, TOKEN_SETTINGS, "no token is accepted without --jwt-jwks")
    if settings.unix_socket is not None:
        yield from _changed(settings, ("host", "port"), "the service listens on --unix-socket")
    elif split_list(settings.trusted_proxies) == [UNIX]:
        yield Unused("trusted_proxies", "no proxy can connect over a Unix socket without --unix-socket")
    if settings.server == "tornado":
        yield from _changed(settings, ("max_incoming_bytes",), "only the server httptools has this limit")
    if settings.events == "off":
        yield from _changed(settings, EVENT_SETTINGS, "events is off")
    if settings.temp_bytes_per_batch > settings.temp_bytes:
        yield Unused("temp_bytes_per_batch", "it is larger than --temp-bytes, which limits all batches")
    if settings.receipt_bytes_per_owner > settings.receipt_bytes:
        yield Unused("receipt_bytes_per_owner", "it is larger than --receipt-bytes, which limits all owners")


def _changed(settings: Settings, names: tuple[str, ...], reason: str) -> Iterator[Unused]:
    for name in names:
        if getattr(settings, name) != Settings.model_fields[name].default:
            yield Unused(name, reason)


def _validate_jwks(settings: Settings) -> None:
    if settings.jwt_jwks:
        with requires_extra("jwt", "jwt_jwks"):
            from guidsvc.auth.tokens.jwks import validate_jwks
        validate_jwks(settings.jwt_jwks)


def _validate_issuer(settings: Settings) -> None:
    if settings.jwt_jwks and is_controlled(settings):
        JwtTrustPolicy(settings.jwt_issuer, settings.jwt_audience).validate()


def _validate_limit(name: str, settings: Settings) -> None:
    """Raise StartError for an invalid limit. The default is valid; the library that parses it takes long to import."""
    value = getattr(settings, name)
    if value != Settings.model_fields[name].default:
        limit_of(name, value)


def _validate_list(name: str, settings: Settings) -> None:
    """Raise StartError if an item of a list is empty or repeated: another one was probably meant."""
    text: str = getattr(settings, name)
    items = [item.strip().lower() for item in text.split(",")] if text.strip() else []
    if "" in items:
        raise StartError(f"{name}: an item of the list is empty; remove a comma, or write the item")
    for item in items:
        if items.count(item) > 1:
            raise StartError(f"{name}: {item!r} is in the list twice; remove one")


def _validate_workers(settings: Settings) -> None:
    if settings.workers > 1 and is_private(settings.cache_url):
        raise StartError(
            f"workers: {settings.workers} need a shared cache; use --cache-url redis://host:6379/0, or --workers 1"
        )


def _validate_tracing(settings: Settings) -> None:
    if settings.tracing != "off":
        with requires_extra("otel", "tracing"):
            from guidsvc.monitoring.request_tracer import validate_environment
        validate_environment()


def _validate_audit_log(settings: Settings) -> None:
    """Raise StartError if the audit log has no folder, or would be written into a file of the store."""
    destination = settings.audit_log
    if destination is None or destination in {OFF, STDERR}:
        return
    path = Path(destination)
    try:
        if path.is_dir() or not path.absolute().parent.is_dir():
            number = EISDIR if path.is_dir() else ENOENT
            raise OSError(number, strerror(number))
    except OSError as error:  # also of `is_dir`: its name is too long, or a folder above it is closed to this user
        raise StartError(f"audit_log: cannot write {path}: {write_fault(error)}") from error
    if scheme_of(settings.store_url) == "sqlite":
        _refuse_file_of_store(path, settings.store_url)


def _refuse_file_of_store(path: Path, store_url: str) -> None:
    from guidsvc.store.sqlite.files import is_file_of
    from guidsvc.store.sqlite.store import path_of_url

    if is_file_of(path_of_url(store_url), path):
        raise StartError(f"audit_log: {path} is a file of the store; name another")


_CHECKS = (
    *(Check((name,), partial(_validate_list, name)) for name in LISTS),
    Check(("trusted_proxies",), lambda settings: TrustedProxies(split_list(settings.trusted_proxies))),
    Check(("hosts",), lambda settings: HostNames(split_list(settings.hosts))),
    Check(("public_url",), lambda settings: public_url.parse(settings.public_url)),
    Check(("cors_origins",), lambda settings: Cors(split_list(settings.cors_origins))),
    Check(("tls_cert", "tls_key"), lambda settings: validate_tls(settings.tls_cert, settings.tls_key)),
    Check(("store_url",), lambda settings: validate_store_url(settings.store_url)),
    Check(("cache_url",), lambda settings: validate_cache_url(settings.cache_url)),
    Check(("workers", "cache_url"), _validate_workers),
    Check(("warn_before",), event_policy),
    Check(("rate_limit",), partial(_validate_limit, "rate_limit")),
    Check(("login_limit",), partial(_validate_limit, "login_limit")),
    Check(("host", "unix_socket", "access"), is_controlled),
    Check(("host", "unix_socket", "access", *ACCESS_SETTINGS), refuse_unguarded),
    Check(("jwt_jwks",), _validate_jwks),
    Check(("host", "unix_socket", "access", *TOKEN_SETTINGS), _validate_issuer),
    Check(("audit_log", "store_url"), _validate_audit_log),
    Check(("tracing",), _validate_tracing),
)
