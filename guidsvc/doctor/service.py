"""Checks of the running service: the program at its address, its version, and its health."""

import os
import re
from collections.abc import Sequence
from functools import partial
from http.client import FORBIDDEN, OK, SERVICE_UNAVAILABLE, UNAUTHORIZED, HTTPException

import guidsvc
from guidsvc.config import Settings
from guidsvc.doctor import address, http_probe
from guidsvc.doctor.checks import Check, Closed
from guidsvc.doctor.findings import Finding, fail, ok, warn
from guidsvc.doctor.host import cores
from guidsvc.errors.plurals import counted

BODY_BYTES, METRICS_BYTES = 4096, 4 * 1024 * 1024
"""Maximum number of bytes read from a response; and from /metrics."""
LAG_SECONDS = 0.1
"""If the 99th percentile of the event loop lag is above this, the service has too little CPU."""
KEY_VARIABLE = "GUIDSVC_KEY"
_REPLACED = "replaced"
_REMEDIES = {
    _REPLACED: "a file of the store was removed or replaced: before you stop or restart the service, "
    "see docs/failure-modes.md, A file was removed or replaced",
    "read-only": "the disk is full or rejects writes, or another program locks the file of the store: see the findings "
    "about the store, and the log line `store rejects writes`; `fuser` shows the programs that have the file open",
}
"""What to do about each state of the store."""
_OTHER_REMEDY = "see the findings about that part, and docs/operations.md#health"
_PERCENTILE = 0.99
_LAG = re.compile(r'^guidsvc_event_loop_lag_seconds_bucket\{.*?le="([^"]+)".*?\} (\S+)', re.MULTILINE)
_SAFE_KEY = re.compile(r"[\x21-\x7e]{1,4096}")


def checks(settings: Settings) -> Sequence[Check]:
    """Return the checks of the service."""
    if settings.unix_socket is None and settings.port == 0:
        return ()
    seconds = http_probe.TOTAL_SECONDS + 1
    return (
        Check("service.address", partial(_address, settings), seconds, is_gate=True),
        Check("service.ready", partial(_ready, settings), seconds),
        Check("service.workers", partial(_workers, settings), seconds),
        Check("service.load", partial(_load, settings), seconds),
    )


def _address(settings: Settings) -> Finding:
    where = http_probe.where(settings, "")
    try:
        response = http_probe.get(settings, "/version", max_bytes=BODY_BYTES)
    except (ConnectionRefusedError, FileNotFoundError):
        address.refuse_unusable(settings, where)
        raise Closed(ok(f"not running; the service can listen at {where}")) from None
    except (OSError, HTTPException) as error:
        address.refuse_foreign(settings)
        hint = http_probe.hint(settings, error).removeprefix("; ")
        return fail(f"{where}: {http_probe.reason(error)}", hint or "restart what listens there, or use another --port")
    members = http_probe.members_of(response.body)
    if response.status != OK or members.get("name") != "guidsvc":
        return fail(f"another program answers at {where}", "stop it, or use another --port")
    version = members.get("version")
    if version != guidsvc.__version__:
        return warn(
            f"guidsvc {version} answers at {where}, but {guidsvc.__version__} is installed here",
            "restart the service, or run the doctor of its own installation",
        )
    if address.is_of_another_store(settings):
        return warn(
            f"guidsvc {version} answers at {where}, but no process on this host uses {settings.store_url}",
            "name the --store-url of that service; or use another --port for this one",
        )
    return ok(f"guidsvc {version} answers at {where}")


def _ready(settings: Settings) -> Finding:
    response = http_probe.get(settings, "/readyz", max_bytes=BODY_BYTES)
    report = http_probe.members_of(response.body)
    parts = http_probe.states(report)
    if response.status == OK and http_probe.is_readiness(report):
        if report["status"] == "ready":
            return ok(f"ready: {parts}")
        store = str(report["store"])
        finding = fail if store == _REPLACED else warn
        return finding(f"degraded: {parts}", _REMEDIES.get(store, _OTHER_REMEDY))
    if response.status == SERVICE_UNAVAILABLE and parts:
        return fail(f"not ready: {parts}", "see the findings about that part, and the log of the service")
    return fail(f"/readyz answered {response.status}", "see the log of the service")


def _workers(settings: Settings) -> Finding:
    """Compare the processes that serve with the setting, and with the cores of this host."""
    report = http_probe.members_of(http_probe.get(settings, "/readyz", max_bytes=BODY_BYTES).body)
    count = report.get("workers")
    if not isinstance(count, int):
        return ok("unknown: the service does not say how many processes serve")
    if count < settings.workers:
        return warn(
            f"{_serving(count)}, but --workers is {settings.workers}",
            "see the log of the service: worker exited, worker cannot be started; or restart it with this setting",
        )
    if count > max(settings.workers, cores()):
        return warn(
            f"{_serving(count)} on {counted(cores(), 'core')}, and slow each other down", f"use --workers {cores()}"
        )
    return ok(_serving(count))


def _serving(count: int) -> str:
    return "1 process serves" if count == 1 else f"{count} processes serve"


def _load(settings: Settings) -> Finding:
    response = http_probe.get(settings, "/metrics", max_bytes=METRICS_BYTES, key=key_of_environment())
    if response.status in {UNAUTHORIZED, FORBIDDEN} and key_of_environment():
        why = "rejects the key in" if response.status == UNAUTHORIZED else "misses the scope monitor in the key of"
        return warn(f"unknown: the service {why} {KEY_VARIABLE}", f"set {KEY_VARIABLE} to a valid key with that scope")
    if response.status != OK:
        return ok(f"unknown: /metrics answered {response.status}; set {KEY_VARIABLE} to a key with the scope monitor")
    lag = _lag_seconds(response.body.decode(errors="replace"))
    if lag is None:
        return ok("the event loop has not been observed yet")
    if lag > LAG_SECONDS:
        return warn(
            f"the event loop is up to {lag:g} s late",
            "give the service more CPU, or more --workers; see docs/operations.md#what-to-alert-on",
        )
    return ok(f"the event loop is at most {lag:g} s late")


def key_of_environment() -> str:
    """Return the key in the variable of clients, or an empty string if there is none that a header can hold."""
    key = os.environ.get(KEY_VARIABLE, "")
    return key if _SAFE_KEY.fullmatch(key) else ""


def _lag_seconds(text: str) -> float | None:
    """Return the bucket of the 99th percentile of the lag of the event loop since the start."""
    buckets = sorted((float(bound), float(count)) for bound, count in _LAG.findall(text))
    if not buckets or not buckets[-1][1]:
        return None
    wanted = _PERCENTILE * buckets[-1][1]
    return next(bound for bound, count in buckets if count >= wanted)
