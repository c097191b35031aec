"""`python pdapt.py --help`: the commands, and all settings in groups."""

import argparse
import textwrap
from collections.abc import Mapping
from functools import partial
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from guidsvc.cli.commands import SUMMARIES
from guidsvc.config import PREFIX, Settings, Size, flag
from guidsvc.domain.durations import DURATION_FORMS
from guidsvc.errors.plurals import counted
from guidsvc.program import program, runnable

GROUPS: Mapping[str, Mapping[str, str]] = {
    "Listen": {
        "host": "ADDRESS",
        "port": "PORT",
        "unix_socket": "PATH",
        "server": "SERVER",
        "workers": "COUNT",
        "hosts": "NAMES",
        "public_url": "URL",
        "console": "",
        "trusted_proxies": "NETWORKS",
        "cors_origins": "ORIGINS",
    },
    "TLS": {"tls_cert": "FILE", "tls_key": "FILE"},
    "Storage": {
        "store_url": "URL",
        "lifetime": "DURATION",
        "retention": "DURATION",
        "guid_version": "VERSION",
        "require_preconditions": "",
    },
    "Cache": {"cache_url": "URL", "cache_size": "SIZE", "max_age": "DURATION", "cache_status": ""},
    "Events": {
        "events": "MODE",
        "events_retention": "DURATION",
        "events_size": "SIZE",
        "warn_before": "DURATIONS",
        "max_streams": "COUNT",
    },
    "Access control": {
        "access": "MODE",
        "jwt_jwks": "FILE|URL",
        "jwt_issuer": "ISSUER",
        "jwt_audience": "AUDIENCE",
        "jwt_owner_claim": "CLAIM",
        "jwt_shared_owners": "",
        "jwt_require_at_jwt": "",
    },
    "Limits": {
        "rate_limit": "RATE",
        "login_limit": "RATE",
        "quota": "COUNT",
        "max_ttl": "DURATION",
        "max_life": "DURATION",
        "max_connections": "COUNT",
        "max_in_progress": "COUNT",
        "max_head_bytes": "BYTES",
        "max_incoming_bytes": "BYTES",
        "max_unsent_bytes": "BYTES",
        "temp_bytes_per_batch": "BYTES",
        "temp_bytes": "BYTES",
        "receipt_bytes_per_owner": "BYTES",
        "receipt_bytes": "BYTES",
    },
    "Timeouts": {
        "head_timeout": "DURATION",
        "body_timeout": "DURATION",
        "idle_timeout": "DURATION",
        "queue_timeout": "DURATION",
        "request_timeout": "DURATION",
        "batch_timeout": "DURATION",
        "grace": "DURATION",
    },
    "Logs and metrics": {
        "access_log": "",
        "audit_log": "FILE",
        "log_level": "LEVEL",
        "log_format": "FORMAT",
        "public_metrics": "",
        "server_timing": "",
        "tracing": "EXPORTER",
    },
}
"""The groups of settings, here and in docs/configuration.md. Each setting has the name of its value, or an empty one
if it is a switch."""

_UNSET = {"access": "off"}
"""What a setting without a value means, if not none."""
_DAY = 24 * 3600
_WIDTH = 79
"""Columns of the paragraphs, of which argparse wraps only those of the options."""

_DESCRIPTION = """\
guidsvc is a REST service that keeps a registry of GUIDs that expire.

commands:
{commands}

`{program} COMMAND --help` describes a command. The options below are those of
`serve`. Each is also an environment variable, or a line of the file .env:
{flag} is {variable}. Append _FILE to read the value from a file:
{variable}_FILE=/run/secrets/store-url.
{durations}
"""
_EXAMPLES = """\
examples:
  {program} --port 9000
  {program} --store-url mongodb://db:27017/guidsvc --cache-url redis://cache:6379/0 --workers 4
  {program} --host 0.0.0.0 --access keys     # first: {program} keys create --new-store --owner alice

docs/configuration.md explains the settings.
"""


def settings_help() -> str:
    """Return the text of `--help`."""
    name = program()
    parser = argparse.ArgumentParser(
        name,
        usage=f"{name} [serve] [OPTIONS]\n       {name} COMMAND --help",
        description=_DESCRIPTION.format(
            commands=_commands(),
            program=name,
            flag=flag("store_url"),
            variable=f"{PREFIX}STORE_URL",
            durations=textwrap.fill(f"A DURATION is {DURATION_FORMS}.", _WIDTH),
        ),
        epilog=_EXAMPLES.format(program=runnable()),
        formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=30),
        add_help=False,
    )
    for title, metavars in GROUPS.items():
        group = parser.add_argument_group(title)
        for setting, metavar in metavars.items():
            _add(group, setting, metavar)
    general = parser.add_argument_group("General")
    general.add_argument("-h", "--help", action="help", help="print this help")
    general.add_argument("--version", action="store_true", help="print the version")
    return parser.format_help()


def _commands() -> str:
    return "\n".join(f"  {name:20}  {summary}" for name, summary in SUMMARIES.items())


def default_text(setting: str) -> str:
    """Return the default of a setting as the documentation shows it, with the unit that reads best."""
    return value_text(setting, Settings.model_fields[setting].default)


def value_text(setting: str, value: object) -> str:
    """Return a value of a setting, with the unit that reads best."""
    match value:
        case bool():
            return "on" if value else "off"
        case None | "":
            return _UNSET.get(setting, "none")
        case Size() | str():
            return str(value)
        case int() if _unit(setting) == "BYTES":
            return f"{value} ({Size(value)})"
        case int() if _unit(setting) == "DURATION" and value >= _DAY and value % _DAY == 0:
            return f"{value} ({counted(value // _DAY, 'day')})"
        case _:
            return f"{value:g}" if isinstance(value, float) else str(value)


def is_switch(setting: str) -> bool:
    """Return whether the flag of a setting takes no value, but has a form with `--no-`."""
    return Settings.model_fields[setting].annotation is bool


def _unit(setting: str) -> str:
    return next(metavars[setting] for metavars in GROUPS.values() if setting in metavars)


def _add(group: argparse._ArgumentGroup, setting: str, metavar: str) -> None:
    field, default = Settings.model_fields[setting], default_text(setting)
    text = f"{field.description}{'' if default == 'none' else f' [default: {default}]'}".replace("%", "%%")
    if is_switch(setting):
        group.add_argument(f"--[no-]{flag(setting)[2:]}", action="store_true", help=text)
    else:
        group.add_argument(flag(setting), metavar=_choices(field) or metavar, help=text)


def _choices(field: FieldInfo) -> str:
    """Return the accepted values of a setting that lists them, else an empty string."""
    types = (field.annotation, *get_args(field.annotation))
    literals = (get_args(each) for each in types if get_origin(each) is Literal)
    return "|".join(next(literals, ()))
