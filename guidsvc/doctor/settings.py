"""Checks of valid settings: their effect on security, and settings without effect."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from guidsvc.auth.audit_log import OFF, STDERR
from guidsvc.bootstrap.auth import audit_destination, is_controlled, is_local
from guidsvc.bootstrap.validation import unused
from guidsvc.cache import is_off
from guidsvc.config import Settings, flag, split_list
from guidsvc.doctor.certificates import validity
from guidsvc.doctor.checks import Check
from guidsvc.doctor.findings import Finding, fail, ok, warn
from guidsvc.foreign_variables import service_links

DAYS = 14
"""A certificate that ends within this time is a warning."""
_DAY = 24 * 3600
_WIDE_PREFIX = {4: 8, 6: 16}
"""A network of trusted proxies with a shorter prefix than this, by IP version, holds strangers."""


def summary(origins: Sequence[str]) -> Finding:
    """Return the finding about settings that are all valid."""
    return ok(f"valid; set: {', '.join(origins)}" if origins else "valid; all have their defaults")


def checks(settings: Settings) -> Sequence[Check]:
    """Return the checks of the settings."""
    found = [
        Check("settings.unused", partial(_unused, settings)),
        Check("settings.access", partial(_access, settings)),
        Check("settings.kubernetes", _service_links),
    ]
    if settings.tls_cert is not None and settings.tls_key is not None:
        found.append(Check("settings.tls", partial(tls_findings, settings.tls_cert, settings.tls_key)))
    if settings.trusted_proxies:
        found.append(Check("settings.proxies", partial(_proxies, settings)))
    if settings.cors_origins:
        found.append(Check("settings.cors", partial(_cors, settings)))
    if settings.audit_log is not None:
        found.append(Check("settings.audit", partial(_audit_log, settings)))
    if settings.cache_size == 0:
        found.append(Check("settings.cache", partial(_cache, settings)))
    return found


def _unused(settings: Settings) -> Sequence[Finding]:
    found = [
        warn(f"{flag(name)} has no effect: {reason}", f"leave it out, or correct what {flag(name)} depends on")
        for name, reason in unused(settings)
    ]
    return found or [ok("every setting has an effect")]


def _access(settings: Settings) -> Finding:
    if is_controlled(settings):
        return ok("requests need a key")
    if is_local(settings):
        return ok("off; only this host can connect")
    return warn(
        f"off, and other hosts can connect to {settings.host}: they can read, change and delete all records",
        "use --access keys, or listen on 127.0.0.1",
    )


def _service_links() -> Finding:
    if links := service_links(os.environ):
        return warn(
            f"Kubernetes sets variables that look like settings, {len(links)} in all, such as {min(links)}",
            "set enableServiceLinks: false in the pod",
        )
    return ok("no variables of Kubernetes that look like settings")


def tls_findings(certificate: str, key: str) -> Sequence[Finding]:
    """Return the findings about a certificate and the file of its key."""
    return [_certificate(certificate, key), *_key_mode(key)]


def _certificate(certificate: str, key: str) -> Finding:
    valid = validity(certificate, key)
    if valid is None:
        return warn(f"OpenSSL does not accept {certificate} for a server", "issue one for TLS servers (serverAuth)")
    now = time.time()
    if now > valid.end:
        return fail(f"{certificate} expired at {_date(valid.end)}", "renew it, then send SIGHUP or restart")
    if now < valid.begin:
        return fail(f"{certificate} is valid only from {_date(valid.begin)}", "check the clock, or issue another")
    if valid.end - now < DAYS * _DAY:
        return warn(f"{certificate} expires at {_date(valid.end)}", "renew it, then send SIGHUP or restart")
    return ok(f"{certificate} fits its key, and is valid until {_date(valid.end)}")


def _key_mode(key: str) -> Iterator[Finding]:
    with suppress(OSError):  # the handshake has read it
        mode = Path(key).stat().st_mode & 0o777
        if mode & 0o077:
            yield warn(f"{key} is readable by other users (mode {mode:04o})", f"run `chmod 600 {key}`")


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _proxies(settings: Settings) -> Finding:
    wide = [each for each in split_list(settings.trusted_proxies) if _is_wide(each)]
    if wide:
        return warn(
            f"{', '.join(wide)} holds strangers, who can then forge client addresses",
            "name only the addresses of your proxies in --trusted-proxies",
        )
    return ok(f"X-Forwarded-For is trusted from {settings.trusted_proxies}")


def _is_wide(text: str) -> bool:
    try:
        network = ip_network(text, strict=False)
    except ValueError:  # `unix`
        return False
    return network.prefixlen < _WIDE_PREFIX[network.version] and not network.is_loopback


def _cors(settings: Settings) -> Finding:
    plain = [each for each in split_list(settings.cors_origins) if _is_plain(each)]
    if plain:
        return warn(
            f"pages of {', '.join(plain)} come over http, where anybody on the network can change them",
            "name only https:// origins in --cors-origins",
        )
    return ok(f"pages of {settings.cors_origins} may call the API")


def _is_plain(origin: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme == "http" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}


def _audit_log(settings: Settings) -> Finding:
    destination = audit_destination(settings)
    if destination in {OFF, STDERR}:
        return ok(f"the audit log is {destination}")
    path = Path(destination).absolute()
    place = path if path.exists() else path.parent
    if not os.access(place, os.W_OK, effective_ids=True):
        return fail(f"{place} is not writable to this user", "change its mode or owner, or name another --audit-log")
    return ok(f"{path} can be written")


def _cache(settings: Settings) -> Finding:
    if is_off(settings.cache_url, settings.cache_size):
        return ok("the cache is off (--cache-size 0): each read goes to the store")
    return ok("records are cached in Redis only (--cache-size 0)")
