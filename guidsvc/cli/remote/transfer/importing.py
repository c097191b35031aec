"""`import`: put the records of a file, in batches. After a kill, it resumes at its last position."""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, get_args

import click

from guidsvc.cli import output
from guidsvc.cli.exit_codes import CONFLICT, FAILED
from guidsvc.cli.parsing.value_types import OneOf
from guidsvc.cli.remote.command import RemoteCommand
from guidsvc.cli.remote.commands.inputs import STDIN
from guidsvc.cli.remote.curl import BASE, KEY_HEADER, quoted_url
from guidsvc.cli.remote.failures import exit_code, report
from guidsvc.cli.remote.progress import progress
from guidsvc.cli.remote.remote import Remote
from guidsvc.cli.remote.transfer.journal import Journal, NoJournal, new_place
from guidsvc.cli.remote.transfer.lines import Chunk, LineReader, ReadError
from guidsvc.cli.remote.transfer.sending import BatchSender, Outcome, Policy
from guidsvc.errors import StartError
from guidsvc.errors.plurals import counted
from guidsvc.monitoring.logs.printable import escape
from guidsvc_client import GuidsvcError

MAX_SHOWN = 20
"""Maximum number of lines with faults that are shown."""


@click.command(
    "import",
    cls=RemoteCommand,
    is_write=True,
    examples=[
        "import guids.ndjson --dry-run",
        "import guids.ndjson --on-conflict skip --resume",
        "import - < guids.ndjson",
    ],
)
@click.argument("source", metavar="FILE|-")
@click.option("--dry-run", "is_dry", is_flag=True, help="check all lines, and change nothing")
@click.option(
    "--on-conflict",
    "policy",
    type=OneOf(get_args(Policy)),
    default="overwrite",
    help="what to do if the GUID exists: skip the line, overwrite the record, or fail [default: overwrite]",
)
@click.option("--resume", "should_resume", is_flag=True, help="continue where the last import of this file stopped")
@click.pass_obj
def import_records(remote: Remote, /, source: str, *, is_dry: bool, policy: Policy, should_resume: bool) -> None:
    """Put the records of a file, one JSON object per line, as `export` writes them."""
    if remote.is_curl:
        output.write(f"{_curl(remote, source, policy, is_dry=is_dry)}\n")
        return
    if should_resume and source == STDIN:
        raise click.UsageError("--resume needs a file: standard input cannot be read again")
    sender = BatchSender(remote.client, policy, is_dry=is_dry)
    with _opened(source) as file:
        journal = NoJournal() if is_dry or source == STDIN else Journal(remote.target.url, Path(source))
        _Import(remote, sender, journal, source).run(file, should_resume=should_resume)


@contextmanager
def _opened(source: str) -> Iterator[BinaryIO]:
    if source == STDIN:
        yield sys.stdin.buffer
        return
    try:
        file = Path(source).open("rb")  # noqa: SIM115  # errors of the block are not errors of the file
    except OSError as error:
        raise _unreadable(source, error) from error
    with file:
        yield file


def _unreadable(source: str, error: OSError) -> StartError:
    name = "standard input" if source == STDIN else source
    return StartError(f"{name} cannot be read: {error.strerror or error}; name another file")


class _Import:
    """One run of an import."""

    def __init__(self, remote: Remote, sender: BatchSender, journal: Journal | NoJournal, source: str) -> None:
        self._remote = remote
        self._sender = sender
        self._journal = journal
        self._source = source
        self._place = new_place()
        self._shown = 0

    def run(self, file: BinaryIO, *, should_resume: bool) -> None:
        """Put all lines, print the counts, and exit with 1 or 4 if some lines failed."""
        try:
            reader = self._reader(file, should_resume=should_resume)
            size_bytes = os.fstat(file.fileno()).st_size if self._source != STDIN else 0
            with progress(self._remote, "import", size_bytes) as advance:
                advance(self._place.size_bytes)
                self._journal.save(self._place)
                for chunk in reader.chunks():
                    self._put(chunk)
                    advance(chunk.size_bytes)
        except GuidsvcError as error:
            self._stop(report(error, self._remote.target, is_write=False), exit_code(error, is_write=False))
        except ReadError as error:
            self._stop(str(_unreadable(self._source, error.reason)), FAILED)
        except KeyboardInterrupt:
            self._remote.warn(self._how_to_go_on())
            raise
        self._journal.remove()
        self._end()

    def _reader(self, file: BinaryIO, *, should_resume: bool) -> LineReader:
        """Return the reader of the remaining lines."""
        if not should_resume:
            self._note_last()
            return LineReader(file)
        last = self._journal.load()
        if last is None:
            self._remote.note("nothing to resume: the import begins with the first line")
            return LineReader(file)
        self._place = last
        reader = LineReader(file, last.line)
        if reader.skip(last.size_bytes) != last.digest and last.line:
            raise StartError(f"{self._source} was changed since; import it again without --resume")
        self._remote.note(f"continuing after line {last.line}")
        return reader

    def _note_last(self) -> None:
        """Note that an earlier import of this file has stopped, if that is known."""
        with suppress(StartError):
            last = self._journal.load()
            if last is not None and last.line:
                self._remote.note(f"an import of this file stopped after line {last.line}; --resume continues there")

    def _put(self, chunk: Chunk) -> None:
        """Put a batch, and note it."""
        counts = dict(self._place.counts)
        outcomes = [Outcome(number, "failed", text) for number, text in chunk.faults]
        if chunk.operations:
            outcomes += self._sender.send(chunk.operations, self._place.key(self._sender.policy))
        for outcome in sorted(outcomes, key=lambda each: each.number):
            counts[outcome.kind] += 1
            self._show(outcome)
        if counts["conflict"] and not self._sender.is_dry:
            self._stop("the import has stopped at a conflict, because of --on-conflict fail", CONFLICT)
        self._place = replace(
            self._place,
            size_bytes=self._place.size_bytes + chunk.size_bytes,
            line=chunk.line,
            digest=chunk.digest,
            counts=counts,
        )
        self._journal.save(self._place)

    def _show(self, outcome: Outcome) -> None:
        if not outcome.detail:
            return
        self._shown += 1
        if self._shown <= MAX_SHOWN:
            self._remote.warn(f"line {outcome.number}: {escape(outcome.detail)}")
        elif self._shown == MAX_SHOWN + 1:
            self._remote.warn("more lines have faults; they are counted, and not shown")

    def _stop(self, text: str, code: int) -> None:
        """Print how to continue, and exit."""
        self._remote.warn(f"{text}\n{self._how_to_go_on()}")
        click.get_current_context().exit(code)

    def _how_to_go_on(self) -> str:
        done = f"{counted(self._place.line, 'line')} {'is' if self._place.line == 1 else 'are'} done"
        if isinstance(self._journal, Journal):
            return f"{done}; continue with the same command and --resume"
        return f"{done}; continue with line {self._place.line + 1}"

    def _end(self) -> None:
        counts = self._place.counts
        self._remote.rendering.record(counts)
        if self._sender.is_dry:
            self._remote.note("nothing was changed: this was a dry run")
        if counts["conflict"]:
            click.get_current_context().exit(CONFLICT)
        if counts["failed"]:
            click.get_current_context().exit(FAILED)


def _curl(remote: Remote, source: str, policy: Policy, *, is_dry: bool) -> str:
    """Return a line for a shell that sends all lines in one request."""
    key = [KEY_HEADER] if remote.target.key else []
    headers = ["--header 'Content-Type: application/x-ndjson'", "--header 'Prefer: return=minimal'"]
    url = quoted_url(f"{remote.target.url}/guid:batch{'?validate_only=true' if is_dry else ''}")
    file = shlex.quote(source)
    words = [BASE, "--request POST", *key, *headers]
    if policy == "overwrite":
        return " ".join([*words, f"--upload-file {file}", url])
    condition = r"""sed 's/^[[:space:]]*{/{"if_none_match":"*",/'"""
    return " ".join([condition, *([] if source == STDIN else [file]), "|", *words, "--upload-file -", url])
