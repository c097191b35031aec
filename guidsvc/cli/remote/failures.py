"""The report of an error: the exit code, and a text with a remedy.

docs/command-line-http.md has the table of the codes.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from guidsvc.cli.exit_codes import FAILED, TRY_AGAIN, UNKNOWN, code_of_status
from guidsvc.cli.remote.target import Target
from guidsvc.cli.remote.wording import spoken
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import runnable
from guidsvc.system_errors import NetworkFault, network_fault, plain_reason
from guidsvc_client import (
    Disconnected,
    Forbidden,
    GuidsvcError,
    InternalError,
    NoResponse,
    NotFound,
    OutcomeUnknown,
    PreconditionFailed,
    PreconditionRequired,
    Problem,
    QuotaExceeded,
    StreamTruncated,
    TimedOut,
    Unauthorized,
    UnexpectedResponse,
    Unreachable,
)

MAX_FAULTS = 20
"""Maximum number of faults of an invalid request that are shown."""
_OF_PROXIES = {502, 503, 504}


def exit_code(error: GuidsvcError, *, is_write: bool) -> int:  # noqa: PLR0911  # a table
    """Return the exit code of a command that ends with this error."""
    match error:
        case InternalError():
            return UNKNOWN if is_write else FAILED
        case OutcomeUnknown():  # its status may be that of a rejected repetition
            return UNKNOWN
        case Problem():
            return code_of_status(error.status)
        case Unreachable() | StreamTruncated():
            return TRY_AGAIN
        case NoResponse():
            return UNKNOWN if is_write else TRY_AGAIN
        case UnexpectedResponse() if error.status in _OF_PROXIES:
            return UNKNOWN if is_write else TRY_AGAIN
        case _:
            return FAILED


class Advice(NamedTuple):
    """Remedies of a command: if its object is not found, and if the outcome of a change is unknown."""

    doubt: str = "read the record before you try again"
    not_found: str = ""
    is_of_end: bool = False
    """Whether the command ends the life of a record, so that to create an unknown one is no remedy."""


OF_RECORDS = Advice()
OF_ENDS = Advice(not_found="It was deleted before, or purged, or another owner has it.", is_of_end=True)
_HINT = re.compile(r" (?:Callers that may write can create it: |It may have been deleted already, ).*", re.DOTALL)
"""The advice of the service about an absent record, in place of which these commands give their own."""


def report(error: GuidsvcError, target: Target, *, is_write: bool, advice: Advice = OF_RECORDS) -> str:
    """Return the error and its remedy in one line, and a line for each fault if there are several."""
    if isinstance(error, Problem):
        faults = [f"\n  {escape(each)}" for each in _faults(error)]
        is_no_remedy = advice.is_of_end and isinstance(error, NotFound)
        detail = _HINT.sub("", error.detail) if is_no_remedy else error.detail
        text = _sentences(spoken(detail), _remedy(error, target, advice))
        return f"{escape(text)} {_source(error)}{''.join(faults)}"
    doubt = f"; the change may have taken effect: {advice.doubt}" if is_write else ""
    return escape(_sentences(_reason(error, target, doubt), _remedy(error, target, advice)))


def _sentences(text: str, remedy: str) -> str:
    return f"{text}{'' if text.endswith('.') else '.'} {remedy}" if remedy else text


def _source(problem: Problem) -> str:
    request = f"request {problem.request_id}, " if problem.request_id else ""
    return escape(f"({problem.code}, {request}explained at {problem.page})")


def _faults(problem: Problem) -> Iterator[str]:
    """Yield the faults of a request, unless the detail contains the only one."""
    if len(problem.errors) < 2:  # noqa: PLR2004
        return
    for fault in problem.errors[:MAX_FAULTS]:
        place = next((fault[name] for name in ("pointer", "parameter", "header") if name in fault), "")
        yield f"{place.removeprefix('/') or 'the body'} {fault.get('detail', '')}"
    if len(problem.errors) > MAX_FAULTS:
        yield f"and {len(problem.errors) - MAX_FAULTS} more"


def _reason(error: GuidsvcError, target: Target, doubt: str) -> str:
    match error:
        case Unreachable():
            return f"no connection to {target.url}: {plain_reason(error.__cause__ or error)}"
        case TimedOut() | Disconnected():
            what = "no response in time" if isinstance(error, TimedOut) else "the connection broke off"
            return f"{target.url}: {what}{doubt or '; try again'}"
        case UnexpectedResponse() if error.status in _OF_PROXIES:
            return f"{error}{doubt}"
        case _:
            return str(error)


def _remedy(error: GuidsvcError, target: Target, advice: Advice) -> str:  # noqa: PLR0911  # a table
    match error:
        case Unreachable():
            return _connection_remedy(error, target)
        case Unauthorized() if target.key is None:
            return "Name a key: set GUIDSVC_KEY, or use --key-file or a profile."
        case Unauthorized():
            return f"Check the key from {target.key.name}." if target.key else ""
        case QuotaExceeded():
            return f"`{runnable('whoami')}` shows what is left; delete GUIDs, or ask an operator for more."
        case Forbidden():
            return f"`{runnable('whoami')}` shows what the key may do."
        case NotFound():
            return advice.not_found
        case PreconditionRequired():
            return f"Add --if-match with the version that `{runnable('get GUID --full')}` shows."
        case PreconditionFailed() if error.version is not None:
            return f"The record has version {error.version} now: read it, and decide again."
        case Problem() if error.retry_after:
            return f"Try again in {error.retry_after:.0f} s."
        case _:
            return ""


def _connection_remedy(error: Unreachable, target: Target) -> str:
    fault = network_fault(error)
    match fault:
        case None | NetworkFault.REFUSED:
            return f"Start the service with `{runnable()}`, or name its address with --url or GUIDSVC_URL."
        case NetworkFault.NO_TLS:
            return f"Use {target.url.replace('https://', 'http://', 1)}, or the port with TLS."
        case NetworkFault.UNKNOWN_NAME:
            return "Correct the host in --url, GUIDSVC_URL or the profile, or the DNS of this host."
        case _:
            return f"{fault.remedy[0].upper()}{fault.remedy[1:]}."
