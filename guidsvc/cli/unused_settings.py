"""Warnings at start: settings without effect, and variables of Kubernetes that were ignored."""

import os
from collections.abc import Sequence

import structlog

from guidsvc.bootstrap.validation import unused
from guidsvc.config import Settings
from guidsvc.foreign_variables import is_service_link

_log = structlog.get_logger(__name__)


def warn_of_unused(settings: Settings, words: Sequence[str]) -> None:
    """Log a warning for each setting that has no effect, and a line if service links of Kubernetes were ignored."""
    for setting, reason in unused(settings):
        from guidsvc.cli.setting_sources import setting_sources

        sources = setting_sources(words)
        why = sources.remedy(reason, setting)
        _log.warning("setting has no effect", setting=sources.spelling(setting), reason=why)
    links = sum(is_service_link(name.upper(), value) for name, value in os.environ.items())
    if links:
        _log.info("service links of Kubernetes ignored", variables=links, remedy="set enableServiceLinks: false")
