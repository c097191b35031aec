"""`whoami` and `status`: the own key, and the state of the service."""

import time

import click

from guidsvc.cli import output
from guidsvc.cli.remote.command import RemoteCommand
from guidsvc.cli.remote.curl import RequestCaptured, curl_line
from guidsvc.cli.remote.documents import identity_document, readiness_document
from guidsvc.cli.remote.failures import report
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.values import DURATION
from guidsvc_client import GuidsvcError, Readiness

READY, DEGRADED, DOWN = range(3)
"""Exit codes of `status`."""
_INTERVAL_SECONDS = 0.25


@click.command(cls=RemoteCommand, examples=["whoami"])
@click.pass_obj
def whoami(remote: Remote, /) -> None:
    """Print what the key is, what it may do, and what is left of its limits."""
    remote.rendering.record(identity_document(remote.client.whoami()))


@click.command(cls=RemoteCommand, examples=["status", "status --wait 30s && {program} ls"])
@click.option("--wait", type=DURATION, metavar="DURATION", help="maximum wait until the service is ready")
@click.pass_context
def status(ctx: click.Context, wait: int | None) -> None:
    """Print the state of the service. Exit with 0 if it is ready, 1 if degraded, 2 if down."""
    remote: Remote = ctx.obj
    if remote.is_curl and wait:
        _print_waiting_curl(remote, wait)
        return
    readiness = _awaited(remote, wait or 0)
    if isinstance(readiness, GuidsvcError):
        remote.warn(report(readiness, remote.target, is_write=False))
        ctx.exit(DOWN)
    remote.rendering.record(readiness_document(readiness))
    ctx.exit(_code(readiness))


def _code(readiness: Readiness | GuidsvcError) -> int:
    if isinstance(readiness, GuidsvcError) or not readiness.is_ready:
        return DOWN
    return READY if readiness.status == "ready" else DEGRADED


def _awaited(remote: Remote, wait_seconds: int) -> Readiness | GuidsvcError:
    """Return the state of the service when it is ready, or at the end of the time."""
    deadline = time.monotonic() + wait_seconds
    client = remote.client.with_options(retries=0)
    while True:
        state: Readiness | GuidsvcError
        try:
            state = client.ready()
        except GuidsvcError as error:
            state = error
        if _code(state) == READY or time.monotonic() >= deadline:
            return state
        time.sleep(min(_INTERVAL_SECONDS, max(0.0, deadline - time.monotonic())))


def _print_waiting_curl(remote: Remote, wait_seconds: int) -> None:
    """Print the request, with the options by which curl waits."""
    waiting = f"--retry {wait_seconds} --retry-delay 1 --retry-max-time {wait_seconds} --retry-all-errors"
    try:
        remote.client.ready()
    except RequestCaptured as captured:
        output.write(f"{curl_line(captured.request, waiting)}\n")
