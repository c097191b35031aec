"""`guidsvc doctor`: find faults of an installation, and name the remedies."""

import json
from collections.abc import Collection, Iterable, Sequence

import click

from guidsvc.cli import output
from guidsvc.cli.local.container import with_container_flags
from guidsvc.cli.parsing.command import SettingsCommand
from guidsvc.cli.rendering import styled
from guidsvc.cli.setting_sources import SettingSources, setting_sources
from guidsvc.config import Settings, flag
from guidsvc.doctor.findings import STATUSES, Finding, Group, worst
from guidsvc.monitoring.logs.printable import escape

_CODES = {"ok": 0, "warn": 0, "fail": 2}
_STRICT_CODES = _CODES | {"warn": 1}


@click.command(
    "doctor",
    cls=SettingsCommand,
    short_help="find faults of the installation, and name the remedies",
    help="Check the settings, this host, the store, Redis, the keys, and the service if it runs. Say what is wrong, "
    "and what to do. It accepts the flags of serve.",
    options_metavar="[OPTIONS] [FLAGS OF SERVE]",
    notes="Each line begins with ok, warn or fail. The exit code is 0, or 2 if a check fails. With --strict it is 1 "
    "if there are only warnings. The doctor changes nothing, and creates no store. It writes a probe beside the "
    "SQLite file, to MongoDB and to Redis, and removes it.",
    examples=[
        "doctor",
        "doctor --skip redis --skip store.pages",
        "doctor --store-url mongodb://db:27017/guidsvc --json",
    ],
)
@click.option("--json", "is_json", is_flag=True, help="print one JSON object instead of lines")
@click.option(
    "--skip", "skipped", multiple=True, metavar="NAME", help="leave out a check, or a group of checks; may be repeated"
)
@click.option("--strict", is_flag=True, help="exit with 1 if there is a warning")
@click.option("--deep", is_flag=True, help="read the whole SQLite file, however long that takes")
@click.pass_context
def doctor(ctx: click.Context, *, is_json: bool, skipped: tuple[str, ...], strict: bool, deep: bool) -> int:
    """Examine the set-up, and return the exit code."""
    from guidsvc.doctor.examination import CHECKS, Subject, examine
    from guidsvc.monitoring.logs import log_config

    log_config.configure("error", "console")  # the findings say what warnings would
    _refuse_unknown(skipped, CHECKS)
    flags = with_container_flags(ctx.args)
    sources = setting_sources(flags)
    subject = Subject(flags, frozenset(skipped), is_deep=deep, spell=sources.spell, origins=_origins(sources))
    groups = _printed(examine(subject)) if not is_json else list(examine(subject))
    if is_json:
        output.write(_document(groups))
    return (_STRICT_CODES if strict else _CODES)[worst(group.status for group in groups)]


def _refuse_unknown(skipped: Collection[str], known: Collection[str]) -> None:
    groups = {name.partition(".")[0] for name in known}
    for name in skipped:
        if name not in {*known, *groups}:
            raise click.BadParameter(
                f"there is no check {name!r}; name one as the doctor prints it, or one of {', '.join(sorted(groups))}",
                param_hint="--skip",
            )


def _origins(sources: SettingSources) -> list[str]:
    """Return the settings that are set, and where, without their values."""
    origins = {name: sources.origin(name) for name in Settings.model_fields}
    return [origin.place or flag(name) for name, origin in origins.items() if origin.kind != "default"]


def _printed(groups: Iterable[Group]) -> list[Group]:
    """Print each group as soon as it is examined, and a summary at the end."""
    seen: list[Group] = []
    for group in groups:
        seen.append(group)
        output.write_escaped(f"{_line(group.status, group.name)}\n")
        for result in group.results:
            output.write_escaped("".join(f"{line}\n" for line in _lines(result.name, result.finding)))
    output.write(_summary(seen))
    return seen


def _lines(name: str, finding: Finding) -> list[str]:
    lines = [_line(finding.status, f"  {name}: {escape(finding.found)}")]
    return [*lines, f"{'':8}-> {escape(finding.remedy)}"] if finding.remedy else lines


def _line(status: str, text: str) -> str:
    return f"{styled(f'{status:5}', status)} {text}"


def _summary(groups: Iterable[Group]) -> str:
    found = [result.finding.status for group in groups for result in group.results]
    return f"\n{', '.join(f'{found.count(status)} {status}' for status in STATUSES)}\n"


def _document(groups: Sequence[Group]) -> str:
    members = [
        {
            "name": group.name,
            "status": group.status,
            "checks": [{"name": result.name, **result.finding._asdict()} for result in group.results],
        }
        for group in groups
    ]
    return f"{json.dumps({'status': worst(group.status for group in groups), 'groups': members}, indent=2)}\n"
