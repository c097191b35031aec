"""`python pdapt.py backup TARGET`: online backup of the SQLite store into one verified file."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from guidsvc.cli import output
from guidsvc.cli.command_parser import CommandParser
from guidsvc.cli.store_settings import load_settings
from guidsvc.config import Check, Settings
from guidsvc.connection_urls import scheme_of
from guidsvc.errors import StartError
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import program, runnable
from guidsvc.store import MONGO_SCHEMES, validate_store_url


def run(words: Sequence[str]) -> None:
    """Make the copy and print a summary line; raise StartError if that fails."""
    arguments = parser().parse_args(words)
    settings = load_settings(arguments.store_url, Check(("store_url",), _validate_sqlite_url))
    from guidsvc.store.sqlite.backup import back_up, salvage
    from guidsvc.store.sqlite.store import path_of_url

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that no partial copy remains
    copy = salvage if arguments.salvage else back_up
    backup = copy(path_of_url(settings.store_url), Path(arguments.target).absolute(), overwrite=arguments.overwrite)
    summary = f"{escape(str(backup.path))}: {backup.records} records, {backup.size_bytes} bytes"
    output.write(f"{summary}\n", done=f"the backup is complete and verified: {summary}")


def _validate_sqlite_url(settings: Settings) -> None:
    if scheme_of(settings.store_url) in MONGO_SCHEMES:
        raise StartError("store_url: backup copies only SQLite stores; for MongoDB use mongodump, see docs/backup.md")
    validate_store_url(settings.store_url)


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    command_parser = CommandParser(
        prog=program("backup"),
        description="Copy the SQLite store into one file and verify the copy. The service may be running.",
        epilog="The store is that of the service, from its settings. It must exist.\n\n"
        f"examples:\n  {runnable('backup')} /backups/guidsvc.db\n"
        f"  {runnable('backup')} /backups/guidsvc.db --overwrite --store-url sqlite:////data/guidsvc.db",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command_parser.add_argument("target", metavar="TARGET", help="file to create")
    command_parser.add_argument(
        "--store-url", metavar="URL", help="store to copy [default: the setting of the service]"
    )
    command_parser.add_argument("--overwrite", action="store_true", help="replace TARGET if it exists")
    command_parser.add_argument("--salvage", action="store_true", help="copy what is readable of a damaged store")
    return command_parser
