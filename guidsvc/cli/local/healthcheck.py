"""`guidsvc healthcheck`: check whether the service on this host is alive, or ready.

It reads the same settings as the service, so it finds the address, port, Unix socket and TLS by itself. It exits with 0
if the response is 200, else with 1 and a one-line reason; with 2 if a flag or setting is invalid.
"""

import json
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from functools import partial
from http.client import OK, HTTPConnection, HTTPException
from pathlib import Path, PurePath
from socket import AF_UNIX, SOCK_STREAM, create_connection, gaierror, socket
from threading import Thread

import click

from guidsvc import config
from guidsvc.cli import output
from guidsvc.cli.parsing.command import SettingsCommand
from guidsvc.config import Check, Settings
from guidsvc.errors import StartError
from guidsvc.monitoring.logs.printable import escape

TIMEOUT_SECONDS = 3.0
"""Timeout of the connection, and then of each read."""
TOTAL_SECONDS = 5.0
"""Timeout of the whole check."""
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
_PARTS = ("store", "cache", "clock")
_SERVICE_PROGRAMS = {"pdapt.py", "guidsvc"}
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104  # not used to bind a socket
_HOST = "localhost"  # every listener accepts this Host, even without access control


class SlowResponse(TimeoutError):
    """The response was incomplete at the deadline."""


def run(flags: Sequence[str], *, is_ready: bool, first_process: Path = Path("/proc/1/cmdline")) -> None:
    """Print that the service is alive, or ready; raise StartError, with a one-line message, if it is not.

    `flags` are those of the service.
    """
    settings = config.load_valid([*container_flags(first_process), *flags], [_PORT_CHECK])
    path = "/readyz" if is_ready else "/livez"
    where = _where(settings, path)
    try:
        status, text = _within(TOTAL_SECONDS, partial(_ask, settings, path))
    except (OSError, HTTPException) as error:
        raise StartError(f"healthcheck: {where}: {_reason(error)}{_hint(settings, error)}") from error
    if status != OK:
        raise StartError(f"healthcheck: {where}: {_refusal(status, text)}")
    output.write(f"{escape(_readiness(text, where) if is_ready else f'alive: {where}')}\n")


def _readiness(text: str, where: str) -> str:
    """Describe the response of /readyz; include the state of each part if the status is not `ready`."""
    report = _members(text)
    status = report.get("status", "ready")
    return f"ready: {where}" if status == "ready" else f"{status}: {where}: {_parts(report)}"


def _refusal(status: int, text: str) -> str:
    """Describe a response that is no success: in words if it is the problem of `/readyz`, else by its first bytes."""
    report = _members(text)
    if report.get("ready") is not False:
        return f"answered {status}: {text[:SHOWN_BYTES]}"
    return f"not ready: {_parts(report)}. {report.get('detail', '')}"[:SHOWN_BYTES]


def _members(text: str) -> dict[str, object]:
    try:
        report = json.loads(text)
    except ValueError:
        return {}
    return report if isinstance(report, dict) else {}


def _parts(report: Mapping[str, object]) -> str:
    """Return the states of the parts in words, for example `store up, cache down`."""
    return ", ".join(f"{part} {report[part]}" for part in _PARTS if part in report)


def container_flags(first_process: Path) -> list[str]:
    """Return the flags of the service if it is the first process of this container, else an empty list.

    A health check in a container inherits the environment of the service, but not its flags.
    """
    try:
        words = first_process.read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
    except OSError:
        return []
    started = next((at for at, word in enumerate(words) if PurePath(word).name in _SERVICE_PROGRAMS), len(words))
    flags = words[started + 1 :]
    return flags[1:] if flags[:1] == ["serve"] else flags


def _within(seconds: float, ask: Callable[[], tuple[int, str]]) -> tuple[int, str]:
    """Return the result of `ask`; raise SlowAnswer if it takes longer, for example if the server drips bytes."""
    future: Future[tuple[int, str]] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # raised again by the waiting thread
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    done, _ = wait([future], seconds)
    if not done:
        raise SlowResponse
    return future.result()


def _ask(settings: Settings, path: str) -> tuple[int, str]:
    """Return the status of the response, and the start of its body as one line."""
    with _connect(settings) as sock:
        connection = HTTPConnection(_HOST)
        connection.sock = sock
        connection.request("GET", path, headers={"Host": _HOST, "Connection": "close"})
        response = connection.getresponse()
        return response.status, " ".join(response.read(BODY_BYTES).decode(errors="replace").split())


def _connect(settings: Settings) -> socket:
    if settings.unix_socket is not None:
        connection = socket(AF_UNIX, SOCK_STREAM)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(settings.unix_socket)
    else:
        connection = create_connection((_address(settings), settings.port), TIMEOUT_SECONDS)
    return connection if settings.tls_cert is None else _unverified().wrap_socket(connection)


def _refuse_any_port(settings: Settings) -> None:
    if settings.unix_socket is None and settings.port == 0:
        raise StartError("port: 0 is any free port; name the one that the service listens on")


_PORT_CHECK = Check(("port", "unix_socket"), _refuse_any_port)


def _unverified() -> ssl.SSLContext:
    """Return a context that accepts any certificate: no secret is sent, and the certificate may name another host."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _address(settings: Settings) -> str:
    return _ANY_ADDRESS.get(settings.host, settings.host)


def _where(settings: Settings, path: str) -> str:
    scheme = "http" if settings.tls_cert is None else "https"
    if settings.unix_socket is not None:
        return f"{scheme}://{_HOST}{path} at {settings.unix_socket}"
    address = _address(settings)
    return f"{scheme}://{f'[{address}]' if ':' in address else address}:{settings.port}{path}"


def _reason(error: OSError | HTTPException) -> str:
    if isinstance(error, SlowResponse):
        return f"no complete response within {TOTAL_SECONDS:g} s"
    if isinstance(error, TimeoutError):
        return f"no response within {TIMEOUT_SECONDS:g} s"
    if isinstance(error, HTTPException):
        return f"not an HTTP response: {error!r}"
    return error.strerror or str(error)


def _hint(settings: Settings, error: OSError | HTTPException) -> str:
    """Return what to do: if nothing listens there, or if only one side may be using TLS."""
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        return f"; start the service, or name its {'--port' if settings.unix_socket is None else '--unix-socket'}"
    if isinstance(error, gaierror):
        return "; correct --host"
    if settings.tls_cert is not None and isinstance(error, (ssl.SSLError, ConnectionResetError, TimeoutError)):
        return "; if the service does not speak TLS, leave out --tls-cert and --tls-key"
    if settings.tls_cert is None and isinstance(error, (ConnectionResetError, HTTPException)):
        return "; if the service speaks TLS, give its --tls-cert and --tls-key"
    return ""


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
