"""The file `.env`: its assignments, and a fault for each line of the settings that is none or is repeated."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from errno import EACCES, EISDIR
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values
from dotenv.parser import Binding, parse_stream

from guidsvc.bounded_file import read_text
from guidsvc.config.settings import ENV_FILE, PREFIX

_NAME = re.compile(rf"\s*(?:export\s+)?({PREFIX}\w+)", re.IGNORECASE)
_REMEDIES = {EACCES: "; let this user read it, or start in another folder", EISDIR: "; start in another folder"}
_OPEN_QUOTE = re.compile(r"[^=]*=\s*(['\"])")


class Assignment(NamedTuple):
    """A variable as it is spelled, its value, and its place."""

    name: str
    value: str
    place: str


class EnvFile(NamedTuple):
    """The content of `.env`; empty if it is missing.

    `variables` are the names in upper case and their values. `broken` are the names of variables in lines with a fault.
    `is_complete` is False if any other line, or the whole file, could not be read.
    """

    assignments: Sequence[Assignment] = ()
    variables: Mapping[str, str] = {}
    faults: Sequence[str] = ()
    broken: Collection[str] = ()
    is_complete: bool = True


def read_env_file(known: Collection[str]) -> EnvFile:
    """Read `.env`; `known` are the variables, in upper case, that must have a value and may be set only once."""
    try:
        bindings = list(parse_stream(StringIO(read_text(ENV_FILE))))
    except FileNotFoundError:
        return EnvFile()
    except UnicodeDecodeError:
        return EnvFile(faults=[f"{ENV_FILE} is not UTF-8; save it in UTF-8"], is_complete=False)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "")
        return EnvFile(faults=[f"{ENV_FILE}: {error.strerror or error}{remedy}"], is_complete=False)
    faults = list(_faults(bindings, known))
    text = "".join(each.original.string for each in bindings if not each.error and each.value is not None)
    values = dotenv_values(stream=StringIO(text))  # with the variables that values refer to
    return EnvFile(
        [Assignment(each.key, each.value or "", _place(each)) for each in bindings if each.key],
        {name.upper(): value or "" for name, value in values.items()},
        [f"{ENV_FILE}, line {line}: {fault}" for line, fault, _ in faults],
        {name for _, _, name in faults},
        all(name for _, _, name in faults),
    )


def _faults(bindings: Sequence[Binding], known: Collection[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the line, the fault, and the variable in upper case, or an empty name if it is unclear."""
    lines: dict[str, int] = {}
    for binding in bindings:
        line, name = _line(binding), (binding.key or "").upper()
        if binding.error:
            yield _broken_line(line, binding.original.string, known)
        elif name in known and binding.value is None:
            yield line, f"{binding.key} has no value; write {binding.key}=value, or remove the line", name
        elif name in known and name in lines:
            yield line, f"{binding.key} is also set in line {lines[name]}; remove one of the two lines", name
        elif name in known:
            lines[name] = line


def _broken_line(line: int, text: str, known: Collection[str]) -> tuple[int, str, str]:
    """Return the fault of a line that is no assignment. Only a known variable is shown: the rest may be secret."""
    match, quote = _NAME.match(text), _OPEN_QUOTE.match(text)
    name = match[1] if match is not None and match[1].upper() in known else ""
    if name and quote is not None:
        return line, f"{name} has a value without a closing {quote[1]}; add it", name.upper()
    return line, f"not an assignment; write {name or 'NAME'}=value", name.upper()


def _place(binding: Binding) -> str:
    """Return the path and the line of an assignment."""
    return f"{Path(ENV_FILE).absolute()}, line {_line(binding)}"


def _line(binding: Binding) -> int:
    """Return the line of an assignment. Its text begins with the blank lines before it."""
    text = binding.original.string
    return int(binding.original.line) + text[: len(text) - len(text.lstrip())].count("\n")
