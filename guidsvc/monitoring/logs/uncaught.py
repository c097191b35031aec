"""Log lines for what Python prints on standard error: warnings and uncaught exceptions."""

import logging
import sys
import threading
from contextlib import suppress
from types import TracebackType

_NAME = "guidsvc.uncaught"


def log_uncaught(handler: logging.Handler) -> None:
    """Log warnings, and write uncaught exceptions of all threads with this handler, until the process ends."""

    def report(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt | SystemExit):
            _write(handler, logging.CRITICAL, "uncaught exception", (kind, error, traceback))

    def report_thread(failure: threading.ExceptHookArgs) -> None:
        report(failure.exc_type, failure.exc_value, failure.exc_traceback)

    def report_unraisable(failure: "sys.UnraisableHookArgs") -> None:
        event = f"{failure.err_msg or 'exception ignored in'}: {failure.object!r}"
        _write(handler, logging.ERROR, event, (failure.exc_type, failure.exc_value, failure.exc_traceback))

    logging.captureWarnings(capture=True)
    sys.excepthook = report
    threading.excepthook = report_thread
    sys.unraisablehook = report_unraisable


def _write(
    handler: logging.Handler,
    level: int,
    event: str,
    failure: tuple[type[BaseException], BaseException | None, TracebackType | None],
) -> None:
    """Write a line to the current standard error, which is no longer that of the handler when the process ends."""
    members = {"name": _NAME, "levelno": level, "levelname": logging.getLevelName(level), "msg": event}
    line = handler.format(logging.makeLogRecord({**members, "exc_info": failure}))
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # it is full, or closed: nothing is left to report to
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()
