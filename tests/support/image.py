"""The image as the Dockerfile makes it, laid out in a folder: there is no Docker where the tests run.

Only the last stage is read. What it copies from the context is there, /venv runs this Python, and the lines that
print a file are run; absolute paths in what they print are moved into the folder.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.backing_servers import ROOT, START_SECONDS

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


class Image:
    """An image, whose root is a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        text = (ROOT / "Dockerfile").read_text()
        self.lines = [line for line in text.rpartition("\nFROM ")[2].splitlines()[1:] if not line.startswith("#")]
        self.folder = self._inside(self.words_of("WORKDIR")[-1])
        self.folder.mkdir(parents=True)
        self.environment = dict(each.split("=", 1) for line in self.words_of("ENV") for each in line.split())
        self._copy()
        self._make_python()
        for line in self.words_of("RUN"):
            if line.startswith("printf "):
                self._print(line)

    def words_of(self, instruction: str) -> list[str]:
        """Return what stands after an instruction, wherever it stands."""
        return [line.partition(" ")[2] for line in self.lines if line.startswith(f"{instruction} ")]

    @property
    def entrypoint(self) -> list[str]:
        """The words of what a container runs."""
        words: list[str] = json.loads(self.words_of("ENTRYPOINT")[-1])
        return words

    @property
    def health_check(self) -> list[str]:
        """The words of the health check."""
        words: list[str] = json.loads(self.words_of("HEALTHCHECK")[-1].partition(" CMD ")[2])
        return words

    def find(self, program: str) -> Path:
        """Return where a program of the image is, as a container finds it."""
        places = [program] if "/" in program else [f"{each}/{program}" for each in _SYSTEM_PATH.split(":")]
        found = [self._inside(place) for place in places if os.access(self._inside(place), os.X_OK)]
        assert found, f"there is no {program} in the image"
        return found[0]

    def command(self, words: Sequence[str]) -> list[str]:
        """Return a command of the image as it is to be run here."""
        return [str(self.find(words[0])), *words[1:]]

    def environment_with(self, more: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a container, with what it is given."""
        return {"PATH": os.environ["PATH"]} | self.environment | dict(more)

    def run(self, words: Sequence[str], more: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command in a container to its end."""
        return subprocess.run(
            self.command(words),
            cwd=self.folder,
            env=self.environment_with(more),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    def _inside(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _copy(self) -> None:
        home = self._inside(self.words_of("WORKDIR")[0])
        for line in self.words_of("COPY"):
            source, target = line.split()[-2:]
            if "--from" in line:
                continue
            assert target.startswith("./"), line
            place = home / target.removeprefix("./") / ("" if (ROOT / source).is_dir() else source)
            place.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)

    def _make_python(self) -> None:
        python = self._inside("/venv/bin/python")
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)

    def _print(self, line: str) -> None:
        self._inside("/usr/local/bin").mkdir(parents=True, exist_ok=True)
        here = re.sub(r"(?<=[ >])/(?=(venv|app|usr/local)/)", f"{self.root}/", line)
        subprocess.run(["/bin/sh", "-c", here], check=True)


def interpolate(text: str) -> str:
    """Replace variables by their defaults, as compose does where none is set; fail if one has no default."""
    text = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", text)
    assert not re.search(r"(?<!\$)\$(?!\$)", text)
    return text.replace("$$", "$")
