"""The base of the commands over HTTP: common options, `--curl`, and the handling of errors."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from guidsvc.cli import output
from guidsvc.cli.parsing.command import Command
from guidsvc.cli.parsing.value_types import OneOf
from guidsvc.cli.remote.curl import RequestCaptured, curl_line
from guidsvc.cli.remote.failures import OF_RECORDS, Advice, exit_code, report
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.target import DEFAULT_URL, KEY, target_of
from guidsvc.cli.remote.values import SPELLINGS
from guidsvc.cli.rendering import FORMS, Rendering, default_form
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import program
from guidsvc_client import GuidsvcError, RecordWithheld

_COMMON = ("url", "key_file", "profile", "form", "is_curl", "is_quiet")


def _common_options(*, has_form: bool) -> list[click.Parameter]:
    return [
        click.Option(["--url"], metavar="URL", help=f"address of the service [default: GUIDSVC_URL, or {DEFAULT_URL}]"),
        click.Option(
            ["--key-file"], metavar="FILE", help="file with the API key [default: GUIDSVC_KEY or GUIDSVC_KEY_FILE]"
        ),
        click.Option(["--profile"], metavar="NAME", help="address and key by name [default: GUIDSVC_PROFILE]"),
        click.Option(
            ["-o", "--output", "form"],
            type=OneOf(FORMS),
            metavar="|".join(FORMS),
            help="form of the data [default: table on a terminal, else lines of JSON]",
            hidden=not has_form,
        ),
        click.Option(["--curl", "is_curl"], is_flag=True, help="print the request as a curl command, and send nothing"),
        click.Option(
            ["--quiet", "is_quiet"], is_flag=True, help="print no notes and no progress, only data and errors"
        ),
    ]


class RemoteCommand(Command):
    """A command over HTTP. Its function gets a `Remote` with `click.pass_obj`.

    `is_write` says whether its requests change something, so that a lost response leaves a doubt. Then it first looks
    whether it can print its output, if it `has_output`. `has_form` says whether that has a form: a command without one
    accepts -o as all others do, but its help does not name it. `advice` is what its errors say to do.
    """

    def __init__(
        self,
        *args: Any,
        is_write: bool = False,
        has_output: bool = True,
        has_form: bool = True,
        advice: Advice = OF_RECORDS,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._advice = advice
        self.is_write, self.has_output = is_write, has_output
        self.params[-2:-2] = _common_options(has_form=has_form and has_output)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Exit with the code of docs/command-line-http.md if the service rejects a request."""
        remote = ctx.obj = _remote_of(ctx)
        if self.is_write and self.has_output:
            output.require_writable()
        with reporting(remote, is_write=self.is_write, advice=self._advice):
            return super().invoke(ctx)


@contextmanager
def reporting(remote: Remote, *, is_write: bool, advice: Advice = OF_RECORDS) -> Iterator[None]:
    """Print the request if `--curl` is set, or report an error and exit with its code. Close the connections."""
    try:
        with _exit_on_sigterm():
            yield
    except RequestCaptured as captured:
        output.write(f"{curl_line(captured.request)}\n")
    except RecordWithheld as done:
        remote.note(str(done))
    except GuidsvcError as error:
        remote.warn(report(error, remote.target, is_write=is_write, advice=advice))
        click.get_current_context().exit(exit_code(error, is_write=is_write))
    finally:
        remote.close()


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Exit on SIGTERM within the block, so that temporary files and records are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _remote_of(ctx: click.Context) -> Remote:
    """Return what the common options of a command name."""
    given = {name: ctx.params.pop(name) for name in _COMMON}
    target = target_of(given["url"], given["key_file"], given["profile"])
    remote = Remote(target, Rendering(given["form"] or default_form(), given["is_quiet"]), is_curl=given["is_curl"])
    for typed, guid in ctx.meta.get(SPELLINGS, ()):
        remote.note(f"{escape(typed)} is read as {guid}")
    note_key(remote)
    return remote


def note_key(remote: Remote) -> None:
    """Note if others can read the file of the key, or if the line of `--curl` needs a key from elsewhere."""
    key = remote.target.key
    if key and key.warning:
        remote.note(key.warning)
    if remote.is_curl and key and key.name != KEY:
        remote.note(f"the line needs the key: set {KEY} to that of {key.name}")


def fail(text: str, code: int) -> NoReturn:
    """Report that a command failed, and exit."""
    output.tell(f"{program()}: {text}")
    click.get_current_context().exit(code)
