"""`guidsvc config`: the settings in force, and where each value comes from."""

import json
from typing import Any

import click

from guidsvc.cli import output
from guidsvc.cli.local.container import with_container_flags
from guidsvc.cli.parsing.command import SettingsCommand
from guidsvc.cli.setting_sources import Origin, SettingSources, setting_sources
from guidsvc.cli.settings_help import GROUPS, value_text
from guidsvc.config import Settings, flag
from guidsvc.connection_urls import redact
from guidsvc.monitoring.logs.printable import escape

_URLS = ("store_url", "cache_url", "jwt_jwks", "public_url")
_HIDDEN = "(hidden: it is read from a file)"


@click.command(
    "config",
    cls=SettingsCommand,
    short_help="print the settings in force",
    help="Print the settings in force, and where each value comes from: a flag, a variable, the file .env, a file that "
    "a variable names, or the default. It accepts the flags of serve, and rejects what serve would reject.",
    options_metavar="[OPTIONS] [FLAGS OF SERVE]",
    notes="URLs are printed without passwords. Other values that are read from a file (GUIDSVC_..._FILE) are hidden.",
    examples=["config", "config --json", "config --port 9000 --cache-url redis://cache:6379/0"],
)
@click.option("--json", "is_json", is_flag=True, help="print one JSON object instead of a table")
@click.option("--changed", is_flag=True, help="print only the settings that are set")
@click.pass_context
def config(ctx: click.Context, *, is_json: bool, changed: bool) -> None:
    """Print the settings."""
    from guidsvc.bootstrap import validation

    flags = with_container_flags(ctx.args)
    settings, sources = validation.load(flags), setting_sources(flags)
    names = [
        name for group in GROUPS.values() for name in group if not changed or sources.origin(name).kind != "default"
    ]
    output.write(_document(settings, sources, names) if is_json else _table(settings, sources, names))


def _document(settings: Settings, sources: SettingSources, names: list[str]) -> str:
    members = {}
    for name in names:
        origin = sources.origin(name)
        shown = _public(name, getattr(settings, name), origin)
        members[name] = {"value": shown, "source": origin.kind, "place": origin.place}
    return f"{json.dumps(members, indent=2)}\n"


def _table(settings: Settings, sources: SettingSources, names: list[str]) -> str:
    rows = {name: _row(name, getattr(settings, name), sources.origin(name)) for name in names}
    widths = [max(map(len, column), default=0) for column in zip(*rows.values(), strict=True)][:2] or [0, 0]
    lines: list[str] = []
    for title, group in GROUPS.items():
        found = [rows[name] for name in group if name in rows]
        lines += [f"{title}:"] if found else []
        lines += [f"  {first:{widths[0]}}  {second:{widths[1]}}  {third}" for first, second, third in found]
    return "".join(f"{line}\n" for line in lines)


def _row(name: str, value: object, origin: Origin) -> tuple[str, str, str]:
    return flag(name), escape(value_text(name, _public(name, value, origin))), escape(origin.place or origin.kind)


def _public(name: str, value: Any, origin: Origin) -> Any:
    """Return a value without secrets, which only texts can hold."""
    if not isinstance(value, str):
        return value
    return _HIDDEN if origin.kind == "file" and name not in _URLS else redact(value)
