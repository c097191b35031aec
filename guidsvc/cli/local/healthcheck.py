"""`guidsvc healthcheck`: check whether the service on this host is alive, or ready.

It reads the same settings as the service, so it finds the address, port, Unix socket and TLS by itself. It exits with 0
if the response is 200 and the service's own, else with 1 and a one-line reason; with 2 if a flag or setting is invalid.
"""

from collections.abc import Mapping, Sequence
from http.client import OK, HTTPException
from pathlib import Path

import click

from guidsvc import config
from guidsvc.cli import output
from guidsvc.cli.local.container import FIRST_PROCESS, with_container_flags
from guidsvc.cli.parsing.command import SettingsCommand
from guidsvc.config import Check, Settings
from guidsvc.doctor import http_probe
from guidsvc.errors import StartError
from guidsvc.monitoring.logs.printable import escape

BODY_BYTES, SHOWN_BYTES = 4096, 300
"""Maximum number of bytes read from the response body; and shown in an error."""

_ADDRESS_FLAGS = {
    "host": "ADDRESS",
    "port": "PORT",
    "unix_socket": "PATH",
    "tls_cert": "FILE",
    "tls_key": "FILE",
}
"""Settings that say where the service listens, and how; with the names of their values."""


def run(flags: Sequence[str], *, is_ready: bool, first_process: Path = FIRST_PROCESS) -> None:
    """Print that the service is alive, or ready; raise StartError, with a one-line message, if it is not.

    `flags` are those of the service.
    """
    settings = config.load_valid(with_container_flags(flags, first_process), [_PORT_CHECK])
    path = "/readyz" if is_ready else "/livez"
    where = http_probe.where(settings, path)
    try:
        status, body = http_probe.get(settings, path, max_bytes=BODY_BYTES)
    except (OSError, HTTPException) as error:
        reason, hint = http_probe.reason(error), http_probe.hint(settings, error)
        raise StartError(f"healthcheck: {where}: {reason}{hint}") from error
    text = " ".join(body.decode(errors="replace").split())
    if status != OK:
        raise StartError(f"healthcheck: {where}: {_refusal(status, text)}")
    report = http_probe.members_of(text)
    if not (http_probe.is_readiness(report) if is_ready else report.get("status") == "live"):
        place = "--port" if settings.unix_socket is None else "--unix-socket"
        raise StartError(f"healthcheck: {where}: another program answers; name the {place} of the service")
    output.write(f"{escape(_readiness(report, where) if is_ready else f'alive: {where}')}\n")


def _readiness(report: Mapping[str, object], where: str) -> str:
    """Describe the response of /readyz; include the state of each part if the status is not `ready`."""
    status = report["status"]
    return f"ready: {where}" if status == "ready" else f"{status}: {where}: {http_probe.states(report)}"


def _refusal(status: int, text: str) -> str:
    """Describe an unsuccessful response: in words if it is the problem of `/readyz`, else by its first bytes."""
    report = http_probe.members_of(text)
    if report.get("ready") is not False:
        return f"answered {status}: {text[:SHOWN_BYTES]}"
    return f"not ready: {http_probe.states(report)}. {report.get('detail', '')}"[:SHOWN_BYTES]


def _refuse_any_port(settings: Settings) -> None:
    if settings.unix_socket is None and settings.port == 0:
        raise StartError("port: 0 is any free port; name the one that the service listens on")


_PORT_CHECK = Check(("port", "unix_socket"), _refuse_any_port)


def _address_flags() -> str:
    """Return a line of help for each flag of the service that this command needs to find it."""
    widest = max(map(len, _ADDRESS_FLAGS)) + 1
    return "\n".join(
        f"  {f'{config.flag(name)} {metavar}':{widest + 10}} {Settings.model_fields[name].description}"
        for name, metavar in _ADDRESS_FLAGS.items()
    )


@click.command(
    "healthcheck",
    cls=SettingsCommand,
    help="Exit with 0 if the service on this host is alive, else with 1 and a one-line reason.",
    options_metavar="[OPTIONS] [ADDRESS OF THE SERVICE]",
    notes=f"address of the service, from its flags, else from its variables and .env:\n{_address_flags()}",
    examples=["healthcheck", "healthcheck --ready --port 9000"],
)
@click.option("--ready", is_flag=True, help="check /readyz, which needs the store, instead of /livez")
@click.pass_context
def healthcheck(ctx: click.Context, *, ready: bool) -> None:
    """Check the service that the flags, variables and `.env` describe."""
    run(ctx.args, is_ready=ready)
