"""Where the keys of a command are: in the store of the service, or in a service that is reached over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import click

from guidsvc.cli.keys.administration import KeyAdministration
from guidsvc.cli.keys.store import StoreKeys
from guidsvc.cli.parsing.command import Command


class Place(NamedTuple):
    """The options that say where the keys are."""

    store_url: str | None = None
    url: str | None = None
    key_file: str | None = None
    profile: str | None = None
    is_curl: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether the keys are in a service over HTTP."""
        return bool(self.url or self.profile)


def _options() -> list[click.Parameter]:
    return [
        click.Option(["--store-url"], metavar="URL", help="store of the service [default: its setting]"),
        click.Option(["--url"], metavar="URL", help="address of a running service: manage its keys over HTTP"),
        click.Option(["--profile"], metavar="NAME", help="address and admin key of a running service, by name"),
        click.Option(
            ["--key-file"],
            metavar="FILE",
            help="with --url: file with an admin key [default: GUIDSVC_KEY or GUIDSVC_KEY_FILE]",
        ),
        click.Option(
            ["--curl", "is_curl"],
            is_flag=True,
            help="with --url or --profile: print the request as a curl command, and send nothing",
        ),
    ]


class PlaceCommand(Command):
    """A command with the options of the place; its function gets them as `place`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.params[-2:-2] = _options()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Options that contradict each other are a usage error."""
        place = Place(**{name: ctx.params.pop(name) for name in Place._fields})
        _refuse_both(place, is_new=ctx.params.get("new_store", False))
        ctx.params["place"] = place
        return super().invoke(ctx)


def _refuse_both(place: Place, *, is_new: bool) -> None:
    """Raise a usage error if the options name a store and a service, or belong to a service and name none."""
    remote = "--url" if place.url else "--profile"
    if place.is_remote and (place.store_url or is_new):
        local = "--store-url" if place.store_url else "--new-store"
        raise click.UsageError(
            f"{local} and {remote} exclude each other: keys are managed in a store, or over HTTP; remove one of them"
        )
    for name, is_set in (("--key-file", place.key_file), ("--curl", place.is_curl)):
        if is_set and not place.is_remote:
            raise click.UsageError(f"{name} needs --url or --profile: without them, keys are managed in the store")


@contextmanager
def administration(
    place: Place, *, is_write: bool, can_create: bool = False, new_store: bool = False
) -> Iterator[KeyAdministration]:
    """Yield the administration of the keys at a place. Inside, its errors end the command with a report."""
    if not place.is_remote:
        yield StoreKeys(place.store_url, can_create=can_create, new_store=new_store)
        return
    from guidsvc.cli.remote.commands.keys import service_keys  # needs the extra `cli`, unlike the store

    with service_keys(place.url, place.key_file, place.profile, is_curl=place.is_curl, is_write=is_write) as keys:
        yield keys
