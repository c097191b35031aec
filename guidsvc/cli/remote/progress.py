"""A progress bar on standard error, if that is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from guidsvc.cli import output
from guidsvc.cli.remote.remote import Remote


def has_bar(remote: Remote) -> bool:
    """Return whether to show a progress bar."""
    return not remote.rendering.is_quiet and not remote.is_curl and output.is_terminal(sys.stderr)


@contextmanager
def progress(remote: Remote, label: str, length: int) -> Iterator[Callable[[int], None]]:
    """Show a bar inside, and yield the function that moves it on by a number."""
    if not has_bar(remote):
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, show_eta=True) as bar:
        yield bar.update
