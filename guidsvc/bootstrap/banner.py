"""The startup banner: the address of the service, its parts, missing parts, and the next step."""

import json
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import guidsvc
from guidsvc.auth.audit_log import OFF, STDERR
from guidsvc.bootstrap.auth import audit_destination, is_controlled, is_local
from guidsvc.bootstrap.preflight import Preflight
from guidsvc.cache import is_off
from guidsvc.config import Settings
from guidsvc.connection_urls import redact
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import command_line
from guidsvc.store import location_of

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104  # not used to bind a socket
"""The loopback address of each address that stands for every address."""
_ROUTES = {"0.0.0.0": (socket.AF_INET, "192.0.2.1"), "::": (socket.AF_INET6, "2001:db8::1")}  # nosec B104  # not bound
"""An address elsewhere (RFC 5737, RFC 3849), to which the system would choose its own outgoing address."""
_OPEN_TO_NETWORK = "everybody on the network can read, change and delete all records; set --access keys"
_DEFAULT_STORE = Settings.model_fields["store_url"].default


def banner(settings: Settings, port: int, preflight: Preflight) -> str:
    """Return the startup message, as text or, with the log format `json`, as one line of JSON."""
    facts = _facts(settings, port, preflight)
    if settings.log_format == "json":
        return _json(facts)
    first, *others = _urls(settings, port)
    lines = [f"guidsvc {guidsvc.__version__} at {first}", *(f"  also     {each}" for each in others)]
    lines += [f"  {name:8} {text}" for name, text in facts.items() if name != "url"]
    return "\n".join(map(escape, lines))


def print_banner(text: str) -> None:
    """Print a banner in one write: a log line of standard error could come between it and its line end."""
    print(f"{text}\n", end="", flush=True)


def _facts(settings: Settings, port: int, preflight: Preflight) -> dict[str, str]:
    """Return the lines of the banner by name; `url` has all addresses, the first one for this host."""
    urls = _urls(settings, port)
    where = urls[0] if settings.unix_socket is None else f"{_scheme(settings)}://localhost"
    facts = {
        "url": " ".join(urls),
        "docs": f"{where}/docs",
        **({"console": f"{where}/console"} if settings.console else {}),
        "records": location_of(settings.store_url),
        "cache": f"{redact(settings.cache_url)}{_cache_state(settings, preflight)}",
        "access": "keys" if is_controlled(settings) else "off",
    }
    if not is_controlled(settings) and not is_local(settings):
        facts["warning"] = _OPEN_TO_NETWORK
    if is_controlled(settings) or settings.audit_log is not None:
        facts["audit"] = _audit_log(audit_destination(settings))
    if preflight.has_keys is False:
        facts["keys"] = f"none; create one, then set KEY to the key that it prints: {_key_command(settings.store_url)}"
    if settings.workers > 1:
        facts["workers"] = str(settings.workers)
    return facts | {"try": _example(settings, where), "stop": "Ctrl+C"}


def _audit_log(destination: str) -> str:
    """Return the place of the audit log in words, or the absolute path of its file."""
    place = {STDERR: "standard error, in this log; for a file: --audit-log FILE", OFF: "off"}.get(destination)
    return place or str(Path(destination).absolute())


def _urls(settings: Settings, port: int) -> list[str]:
    if settings.unix_socket is not None:
        return [settings.unix_socket]
    hosts = [_LOOPBACK.get(settings.host, settings.host), *_outgoing_address(settings.host)]
    return [f"{_scheme(settings)}://{f'[{host}]' if ':' in host else host}:{port}" for host in hosts]


def _outgoing_address(host: str) -> list[str]:
    """Return the address of this host that others probably reach it at, if the service listens on every address."""
    if host not in _ROUTES:
        return []
    family, elsewhere = _ROUTES[host]
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((elsewhere, 9))  # sends nothing
        return [str(probe.getsockname()[0])]
    return []  # this host has no route to others


def _scheme(settings: Settings) -> str:
    return "http" if settings.tls_cert is None else "https"


def _cache_state(settings: Settings, preflight: Preflight) -> str:
    if is_off(settings.cache_url, settings.cache_size):
        return " (off: --cache-size 0; reads go to the store)"
    return _redis_state(preflight) + ("" if settings.cache_size else "; none in the process: --cache-size 0")


def _redis_state(preflight: Preflight) -> str:
    if preflight.cache_answers is None:
        return ""
    if preflight.unknown_host is not None:
        return f" (unknown host {preflight.unknown_host}; correct the URL or the DNS; reads go to the store)"
    return " (answers)" if preflight.cache_answers else " (no answer yet; reads go to the store)"


def _key_command(store_url: str) -> str:
    """Return the command that creates a key in this store, unless the URL, which may hold a password, is needed."""
    words = ["keys", "create", "--owner", "NAME"]
    if store_url != _DEFAULT_STORE and redact(store_url) == store_url:
        place = location_of(store_url)
        words += ["--store-url", f"sqlite:///{place}" if store_url.startswith("sqlite:") else store_url]
    return command_line(*words)


def _example(settings: Settings, where: str) -> str:
    options = "" if settings.unix_socket is None else f" --unix-socket {settings.unix_socket}"
    authorization = ' -H "Authorization: Bearer $KEY"' if is_controlled(settings) else ""
    return f"""curl{options}{authorization} -X PUT -d '{{"user": "Cylance, Inc."}}' {where}/guid"""


def _json(facts: dict[str, str]) -> str:
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    about = {"event": "serving", "level": "info", "logger": __name__, "timestamp": now, "version": guidsvc.__version__}
    return json.dumps(facts | {"url": facts["url"].split()} | about)
