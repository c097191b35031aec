"""Log lines: to read on a terminal, JSON otherwise; to standard error, structlog's and everybody else's alike."""

import logging
import sys
from typing import Literal

import structlog
from structlog.types import Processor


def configure(level: str, form: Literal["auto", "console", "json"]) -> None:
    """Send every line of this level and above to standard error; `auto` is for a reader if that is a terminal."""
    readable = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_rendering(readable=readable)],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _rendering(*, readable: bool) -> list[Processor]:
    if readable:
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
