"""`export`: all records that the options select, as lines of JSON."""

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import click

from guidsvc.cli import output
from guidsvc.cli.remote.command import RemoteCommand
from guidsvc.cli.remote.commands.inputs import STDIN, given
from guidsvc.cli.remote.commands.listing import filter_options
from guidsvc.cli.remote.curl import RequestCaptured, curl_line
from guidsvc.cli.remote.documents import json_text, record_document
from guidsvc.cli.remote.progress import has_bar, progress
from guidsvc.cli.remote.remote import Remote
from guidsvc.errors import StartError
from guidsvc.files.partial_file import partial_file
from guidsvc_client import Record

CHUNK = 500
"""Number of lines in one write."""
Write = Callable[[str], object]


@click.command(
    "export",
    cls=RemoteCommand,
    has_form=False,
    examples=["export guids.ndjson", "export - --user alice | jq -c .guid > guids.txt"],
)
@click.argument("target", metavar="FILE|-")
@filter_options("all")
@click.pass_obj
def export_records(remote: Remote, /, target: str, **options: Any) -> None:
    """Write the records as lines of JSON to a file, or to standard output. `import` reads them.

    A file appears only when it is complete. It is not a backup: it has no owners and no versions.
    """
    filters: Any = given(**options)
    try:
        total = remote.client.list(**filters).total() if has_bar(remote) else 0
        records = remote.client.stream(**filters)
        with _opened(target) as write, progress(remote, "export", total) as advance:
            count = _copy(records, write, advance)
    except RequestCaptured as captured:
        file = [] if target == STDIN else [f"--output {shlex.quote(target)}"]
        output.write(f"{curl_line(captured.request, *file)}\n")
        return
    remote.note(f"{'1 record is' if count == 1 else f'{count} records are'} exported")


def _copy(records: Iterator[Record], write: Write, advance: Callable[[int], None]) -> int:
    """Write the records; return their number."""
    count = 0
    while chunk := list(islice(records, CHUNK)):
        write("".join(f"{json_text(_complete(record))}\n" for record in chunk))
        advance(len(chunk))
        count += len(chunk)
    return count


def _complete(record: Record) -> dict[str, Any]:
    """Return a record with metadata, even if empty, so that an import removes existing metadata."""
    return {"metadata": {}, **record_document(record)}


@contextmanager
def _opened(target: str) -> Iterator[Write]:
    """Yield the function that writes to standard output, or to a file that appears when it is complete."""
    if target == STDIN:
        yield output.write
        return
    try:
        path = Path(os.path.realpath(target))  # a symbolic link stays a link
        with _opened_device(path) if _is_device(path) else _opened_file(path) as write:
            yield write
    except OSError as error:
        raise StartError(f"{target} cannot be written: {error.strerror or error}; name another file") from error


def _is_device(path: Path) -> bool:
    """Return whether a path is a pipe or a device, which no file may replace."""
    return path.exists() and not path.is_file()


@contextmanager
def _opened_device(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8") as file:
        yield file.write


@contextmanager
def _opened_file(path: Path) -> Iterator[Write]:
    """Write a new file next to the target, which it replaces at the end."""
    with partial_file(path) as part, open(part, "x", encoding="utf-8", opener=_open_private) as file:
        yield file.write
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o666 & ~_umask())
        part.replace(path)  # as one step


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
