"""Comparison of the clock of this host with that of a server."""

from guidsvc.doctor.findings import Finding, fail, ok
from guidsvc.monitoring.health import TOLERABLE_SKEW_SECONDS


def judge_clock(started: float, there: float, ended: float, name: str) -> Finding:
    """Return the finding about the clock of a server, read between two times of this host; all are Unix times."""
    ahead, behind = max(0.0, started - there), max(0.0, there - ended)
    if ahead + behind > TOLERABLE_SKEW_SECONDS:
        return fail(
            f"the clock of this host is {ahead + behind:.1f} s {'ahead of' if ahead else 'behind'} that of {name}",
            "synchronize both clocks (NTP)",
        )
    return ok(f"the clock of this host agrees with that of {name}")
