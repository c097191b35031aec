"""Lines of libraries, in the form of the service's own."""

import logging

from pydantic_core import from_json
from structlog.types import EventDict, WrappedLogger

_DRIVER = "pymongo."


def silence_libraries() -> None:
    """Prevent libraries from logging data that clients send, and from logging as often as clients send requests."""
    logging.getLogger("pymongo.command").setLevel(logging.INFO)  # DEBUG would log each command with its records
    for name in ("opentelemetry.sdk._shared_internal", "opentelemetry.trace"):  # of dropped spans, of client headers
        logging.getLogger(name).setLevel(logging.CRITICAL)


def split_driver_line(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Move the members that MongoDB's driver logs as JSON text from the event into `details`."""
    if str(line.get("logger")).startswith(_DRIVER) and str(line["event"]).startswith('{"message": '):
        try:
            details = from_json(line["event"])
        except ValueError:  # the driver cuts long values
            return line
        line["event"] = details.pop("message")
        line["details"] = details
    return line
