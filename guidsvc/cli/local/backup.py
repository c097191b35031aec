"""`guidsvc backup TARGET`: online backup of the SQLite store into one verified file."""

import signal
import sys
from pathlib import Path

import click

from guidsvc.cli import output
from guidsvc.cli.parsing.command import Command
from guidsvc.cli.store_settings import load_settings
from guidsvc.config import Check, Settings
from guidsvc.connection_urls import scheme_of
from guidsvc.errors import StartError
from guidsvc.errors.plurals import counted
from guidsvc.monitoring.logs.printable import escape
from guidsvc.program import program
from guidsvc.store import MONGO_SCHEMES, validate_store_url


@click.command(
    "backup",
    cls=Command,
    help="Copy the SQLite store into one file and verify the copy. The service may be running.",
    notes="The store is that of the service, from its settings. It must exist.",
    examples=[
        "backup /backups/guidsvc.db",
        "backup /backups/guidsvc.db --overwrite --store-url sqlite:////data/guidsvc.db",
    ],
)
@click.argument("target", metavar="TARGET", help="file to create")
@click.option("--store-url", metavar="URL", help="store to copy [default: the setting of the service]")
@click.option("--overwrite", is_flag=True, help="replace TARGET if it exists")
@click.option("--salvage", is_flag=True, help="copy what is readable of a damaged store")
def backup(target: str, store_url: str | None, *, overwrite: bool, salvage: bool) -> None:
    """Make the copy and print a summary line; raise StartError if that fails."""
    settings = load_settings(store_url, Check(("store_url",), _validate_sqlite_url))
    from guidsvc.store.sqlite import backup as sqlite_backup
    from guidsvc.store.sqlite.store import path_of_url

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that no partial copy remains
    copy = sqlite_backup.salvage if salvage else sqlite_backup.back_up
    made = copy(path_of_url(settings.store_url), _absolute(target), overwrite=overwrite)
    summary = f"{escape(str(made.path))}: {counted(made.records, 'record')}, {made.size_bytes} bytes"
    output.write(f"{summary}\n", done=f"the backup is complete and verified: {summary}")
    for loss in made.losses:
        output.tell(f"{program('backup')}: warning: {loss}")


def _absolute(target: str) -> Path:
    try:
        return Path(target).absolute()
    except FileNotFoundError as error:
        raise StartError("backup: the working directory no longer exists; name an absolute path") from error


def _validate_sqlite_url(settings: Settings) -> None:
    if scheme_of(settings.store_url) in MONGO_SCHEMES:
        raise StartError("store_url: backup copies only SQLite stores; for MongoDB use mongodump, see docs/backup.md")
    validate_store_url(settings.store_url)
