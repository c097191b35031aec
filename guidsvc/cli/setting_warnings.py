"""Warnings at start: settings without effect or without a unit, and variables of Kubernetes that were ignored."""

import os
from collections.abc import Sequence

import structlog

from guidsvc.bootstrap.validation import unused
from guidsvc.config import Settings, split_list
from guidsvc.foreign_variables import service_links

_LONG = ("events_retention", "retention", "warn_before")
"""Settings that are rarely below a minute: a small number without a unit was probably meant as hours or days."""
_MINUTE = 60

_log = structlog.get_logger(__name__)


def warn_of_settings(settings: Settings, words: Sequence[str]) -> None:
    """Log a warning for each setting that has no effect or lacks a unit, and a line for ignored service links."""
    _warn_of_unused(settings, words)
    if links := service_links(os.environ):
        _log.info("service links of Kubernetes ignored", variables=len(links), remedy="set enableServiceLinks: false")
    _warn_of_seconds(settings, words)


def _warn_of_unused(settings: Settings, words: Sequence[str]) -> None:
    """Log a warning for each setting that has no effect."""
    found = list(unused(settings))
    if not found:
        return
    from guidsvc.cli.setting_sources import setting_sources

    sources = setting_sources(words)
    for setting, reason in found:
        why = sources.remedy(reason, setting)
        _log.warning("setting has no effect", setting=sources.spelling(setting), reason=why)


def _warn_of_seconds(settings: Settings, words: Sequence[str]) -> None:
    """Log a warning for each retention or warning of less than a minute that was written as a plain number."""
    short = [name for name in _LONG if any(map(_is_short, split_list(str(getattr(settings, name)))))]
    if not short:
        return
    from guidsvc.cli.setting_sources import setting_sources

    sources = setting_sources(words)
    for name in short:
        for item in filter(_is_short, split_list(sources.text(name) or "")):
            remedy = f"write {item}s if that is meant, or another unit, as in {item}d"
            _log.warning(
                "duration without a unit is in seconds", setting=sources.spelling(name), value=item, remedy=remedy
            )


def _is_short(text: str) -> bool:
    return text.isdecimal() and 0 < int(text[:20]) < _MINUTE
