"""The examination: all groups of checks that concern these settings."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field

from guidsvc.bootstrap import validation
from guidsvc.bootstrap.auth import is_controlled
from guidsvc.cache import is_private, validate_cache_url
from guidsvc.config import Settings
from guidsvc.connection_urls import scheme_of
from guidsvc.doctor import host, service
from guidsvc.doctor import settings as settings_checks
from guidsvc.doctor.checks import Check, is_skipped, run_checks
from guidsvc.doctor.findings import Group, Result, bounded, fault
from guidsvc.errors import InvalidSettings, StartError
from guidsvc.program import runnable
from guidsvc.store import MONGO_SCHEMES, validate_store_url

CHECKS = (
    "settings.values",
    "settings.unused",
    "settings.access",
    "settings.kubernetes",
    "settings.tls",
    "settings.proxies",
    "settings.cors",
    "settings.audit",
    "settings.cache",
    "host.python",
    "host.files",
    "host.temporary",
    "host.cores",
    "store.folder",
    "store.space",
    "store.writable",
    "store.file",
    "store.user",
    "store.log",
    "store.pages",
    "store.reach",
    "store.replicas",
    "store.clock",
    "store.exists",
    "store.reads",
    "store.indexes",
    "store.purge",
    "redis.reach",
    "redis.latency",
    "redis.memory",
    "redis.cluster",
    "redis.rights",
    "redis.server",
    "redis.clock",
    "keys.jwks",
    "keys.exist",
    "keys.admin",
    "keys.expiry",
    "keys.endless",
    "service.address",
    "service.ready",
    "service.load",
    "service.workers",
)
"""The names of all checks. They never change: scripts depend on them."""
GROUPS = ("settings", "host", "store", "redis", "keys", "service")

_GATES = {"store.folder", "store.file", "store.reach", "store.replicas"}
"""Checks without which no key can be read from the store."""
_REMEDY = f"correct the setting; `{runnable()} --help` describes it"


@dataclass(frozen=True)
class Subject:
    """The object of the examination: the service that these flags, with the variables and `.env`, would start."""

    words: Sequence[str]
    skipped: Collection[str] = frozenset()
    is_deep: bool = False
    spell: Callable[[str], str] = str
    """Turns an error message into the spelling of the user."""
    origins: Sequence[str] = field(default_factory=tuple)
    """The settings that are set, and where."""


def examine(subject: Subject) -> Iterator[Group]:
    """Yield the groups of results one after the other, without groups whose settings are invalid."""
    settings, faults = _load(subject)
    has_store = True
    for name in GROUPS:
        results = [each for each in faults if name == "settings" and not is_skipped(each.name, subject.skipped)]
        if settings is not None and name not in subject.skipped:
            checks = _checks(name, settings, subject, has_store=has_store)
            known = {each.finding.found for each in results}  # a check may meet a fault of the settings again
            found = run_checks(checks, subject.skipped, subject.spell)
            results += [each for each in found if each.finding.found not in known]
        if results:
            yield Group(name, results)
        has_store = has_store and not any(each.name in _GATES and each.finding.status == "fail" for each in results)


def _load(subject: Subject) -> tuple[Settings | None, list[Result]]:
    """Return the settings, as far as they are valid, and the findings about them."""
    try:
        settings = validation.load(subject.words)
    except InvalidSettings as error:
        faults = (bounded(fault(subject.spell(line), _REMEDY)) for line in error.faults)
        return error.settings, [Result("settings.values", each) for each in faults]
    return settings, [Result("settings.values", bounded(settings_checks.summary(subject.origins)))]


def _checks(name: str, settings: Settings, subject: Subject, *, has_store: bool) -> Sequence[Check]:
    has_store = has_store and _is_usable(validate_store_url, settings.store_url)
    match name:
        case "settings":
            found = settings_checks.checks(settings)
        case "host":
            found = host.checks(settings)
        case "store" if has_store:
            found = _store_checks(settings.store_url, is_deep=subject.is_deep)
        case "redis" if _is_usable(validate_cache_url, settings.cache_url) and not is_private(settings.cache_url):
            from guidsvc.doctor.backends import redis

            found = redis.checks(settings.cache_url)
        case "keys" if _has_keys(settings):
            from guidsvc.doctor.backends import keys

            found = keys.checks(settings, has_store=has_store)
        case "service":
            found = service.checks(settings)
        case _:
            found = ()
    return found


def _store_checks(url: str, *, is_deep: bool) -> Sequence[Check]:
    if scheme_of(url) in MONGO_SCHEMES:
        from guidsvc.doctor.backends import mongo

        return mongo.checks(url)
    from guidsvc.doctor.backends import sqlite
    from guidsvc.store.sqlite.store import path_of_url

    return sqlite.checks(path_of_url(url), is_deep=is_deep)


def _is_usable(validate: Callable[[str], None], url: str) -> bool:
    """Return whether a URL can be used; `settings.values` has the fault if it cannot."""
    try:
        validate(url)
    except StartError:
        return False
    return True


def _has_keys(settings: Settings) -> bool:
    try:
        return is_controlled(settings)
    except StartError:
        return False
