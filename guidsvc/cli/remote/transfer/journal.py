"""The journal of an import: its position, at which `--resume` continues after a kill.

It is a small file of the user. A batch is noted after its response has come. The batch after it may have been sent
already: its idempotency key depends on the journal alone, so the repetition does nothing twice.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import platformdirs
from pydantic_core import from_json

from guidsvc.bounded_file import read_text
from guidsvc.cli.remote.transfer.sending import Kind
from guidsvc.errors import StartError
from guidsvc.files.partial_file import partial_file
from guidsvc.system_errors import plain_reason

_HEX = re.compile("[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file: the bytes and the lines before it, and the digest of these bytes."""

    seed: str
    size_bytes: int = 0
    line: int = 0
    digest: str = ""
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(get_args(Kind), 0))

    def key(self, policy: str) -> str:
        """Return the idempotency key of the batch that begins here."""
        return f"import-{self.seed}-{policy}-{self.line}"


def new_place() -> Place:
    """Return the beginning of a file."""
    return Place(uuid4().hex)


class Journal:
    """The journal of the import of one file to one service."""

    def __init__(self, url: str, file: Path) -> None:
        place = os.path.realpath(file)  # `Path.resolve` raises RuntimeError for a link that leads to itself
        name = hashlib.sha256(f"{url}\n".encode() + os.fsencode(place)).hexdigest()[:32]
        self.path = platformdirs.user_state_path("guidsvc") / "imports" / f"{name}.json"
        self._source = f"{url} {place}"

    def load(self) -> Place | None:
        """Return where the last import of this file has stopped; None if there was none, or it is complete."""
        try:
            return _place_of(from_json(read_text(self.path)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise StartError(f"{self.path} cannot be used: {_fault(error)}; start without --resume") from error

    def save(self, place: Place) -> None:
        """Save the position of the import."""
        content = json.dumps({"import": self._source, "place": asdict(place)})
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with partial_file(self.path) as new, new.open("w", encoding="utf-8") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                new.replace(self.path)
        except OSError as error:
            raise StartError(f"{self.path} cannot be written: {error.strerror or error}; set XDG_STATE_HOME") from error

    def remove(self) -> None:
        """Remove the journal of a complete import."""
        self.path.unlink(missing_ok=True)


def _place_of(document: Any) -> Place:
    """Return the place in a journal. Raise ValueError, LookupError or TypeError if no import wrote it."""
    place = Place(**document["place"])
    values: dict[str, Any] = asdict(place)
    counts = values["counts"]
    if not isinstance(counts, dict) or set(counts) != set(get_args(Kind)):
        raise ValueError("the counts are others")
    numbers = [values["size_bytes"], values["line"], *counts.values()]
    if not all(type(each) is int and each >= 0 for each in numbers):  # a bool is no number
        raise ValueError("a number is missing")
    if _HEX.fullmatch(place.seed + place.digest) is None:
        raise ValueError("the seed or the digest is not hexadecimal")
    return place


def _fault(error: Exception) -> str:
    return plain_reason(error) if isinstance(error, OSError) else "it is not what an import wrote"


class NoJournal:
    """The journal of an import that cannot be resumed: of standard input, or a dry run."""

    def load(self) -> Place | None:
        """Return None, because there is no saved position."""
        return None

    def save(self, place: Place) -> None:
        """Do nothing."""

    def remove(self) -> None:
        """Remove nothing."""
