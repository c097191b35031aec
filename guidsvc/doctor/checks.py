"""Checks: functions with a name and a time limit, run one after the other."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

from guidsvc.doctor.findings import Finding, Result, bounded, fail, fault
from guidsvc.errors import GuidsvcError, StartError
from guidsvc.time_limit import within

SECONDS = 5.0
"""Default time limit of a check."""
MAX_FINDINGS = 50
"""Maximum number of findings of one check."""

Findings = Finding | Sequence[Finding]


class Check(NamedTuple):
    """A check. If a gate fails, or says that the part is absent, the later checks of its group make no sense."""

    name: str
    run: Callable[[], Findings]
    seconds: float = SECONDS
    is_gate: bool = False


class Closed(Exception):
    """A gate found nothing further to check. This is not a fault."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


def run_checks(checks: Sequence[Check], skipped: Collection[str], spell: Callable[[str], str]) -> Iterator[Result]:
    """Yield the results of the checks that are not skipped. `spell` turns a message into the spelling of the user."""
    for check in checks:
        if not is_skipped(check.name, skipped):
            findings, is_closed = _findings(check, spell)
            yield from (Result(check.name, bounded(finding)) for finding in findings[:MAX_FINDINGS])
            if is_closed:
                return


def is_skipped(name: str, skipped: Collection[str]) -> bool:
    """Return whether a check, or the whole group that it belongs to, is skipped."""
    return name in skipped or name.partition(".")[0] in skipped


def _findings(check: Check, spell: Callable[[str], str]) -> tuple[Sequence[Finding], bool]:
    """Return the findings of a check, and whether it closes the gate."""
    try:
        found = within(check.seconds, check.run)
        findings: Sequence[Finding] = [found] if isinstance(found, Finding) else found
    except Closed as closed:
        return [closed.finding], True
    except (StartError, GuidsvcError) as error:
        findings = [fault(spell(line)) for line in str(error).split("\n")]
    except Exception as error:  # noqa: BLE001  # reported: a check that breaks must not hide the others
        findings = [_broken(check, error)]
    return findings, check.is_gate and any(each.status == "fail" for each in findings)


def _broken(check: Check, error: Exception) -> Finding:
    leave_out = f"leave the check out with --skip {check.name}"
    if isinstance(error, TimeoutError):
        return fail(f"no result within {check.seconds:g} s", f"see whether a disk or a server hangs, or {leave_out}")
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return fail(f"{place}{error.strerror or type(error).__name__}", f"correct that, or {leave_out}")
    return fail(f"the check itself failed: {type(error).__name__}", f"report this as a bug, and {leave_out}")
