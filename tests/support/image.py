"""The image as the Dockerfile makes it, laid out in a folder: there is no Docker where the tests run.

What the first stage copies from the context is the source tree of the wheel; /venv has that wheel, and this Python. Of
the last stage, the instructions are read.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.backing_servers import ROOT, START_SECONDS
from tests.support.installed_wheel import add_wheel, build_wheel, install_wheel

_BASE_PATH = "/usr/local/bin:/usr/bin:/bin"
_VENV = "/venv"


class Stage:
    """The instructions of a stage of the Dockerfile, in order."""

    def __init__(self, text: str) -> None:
        joined = re.sub(r"\\\n\s*", "", text)
        self.instructions = [
            (found[1], found[2]) for found in re.finditer(r"^([A-Z]+) (.*)$", joined, flags=re.MULTILINE)
        ]

    def words_of(self, instruction: str) -> list[str]:
        """Return what stands after an instruction, wherever it stands."""
        return [words for name, words in self.instructions if name == instruction]


def stages() -> list[Stage]:
    """Return the stages of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text()
    return [Stage(f"FROM {each}") for each in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]]


def install_image(folder: Path) -> Path:
    """Do what the first stage does, with what it copies alone; return the folder of commands of the image."""
    context = folder / "context"
    context.mkdir()
    for line in stages()[0].words_of("COPY"):
        source, target = line.split()
        place = context / target / ("" if (ROOT / source).is_dir() else source)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, place)
    commands = install_wheel(build_wheel(context, folder / "dist"), folder / "venv")
    add_wheel(build_wheel(context / "guidsvc_client", folder / "client"), commands)
    return commands


class Image:
    """An image, whose root is a folder; `commands` is the folder of commands that `install_image` made."""

    def __init__(self, root: Path, commands: Path) -> None:
        self.root = root
        self._commands = commands
        self.last = stages()[-1]
        self.folder = self._inside(self.last.words_of("WORKDIR")[-1])
        self.folder.mkdir(parents=True)
        self.environment = {"PATH": _BASE_PATH}
        for each in " ".join(self.last.words_of("ENV")).split():
            name, _, value = each.partition("=")
            self.environment[name] = value.replace("$PATH", self.environment["PATH"])

    @property
    def entrypoint(self) -> list[str]:
        """The words of what a container runs, before those that its caller can replace."""
        return self._words("ENTRYPOINT")

    @property
    def default_command(self) -> list[str]:
        """The words that follow unless its caller gives others."""
        return self._words("CMD")

    @property
    def health_check(self) -> list[str]:
        """The words of the health check."""
        words: list[str] = json.loads(self.last.words_of("HEALTHCHECK")[-1].partition(" CMD ")[2])
        return words

    def find(self, program: str) -> Path:
        """Return where a program of the image is, as a container finds it."""
        places = [f"{each}/{program}" for each in self.environment["PATH"].split(":") if each.startswith(_VENV)]
        found = [place for place in map(self._inside, places) if os.access(place, os.X_OK)]
        assert found, f"there is no {program} in the image"
        return found[0]

    def command(self, words: Sequence[str]) -> list[str]:
        """Return a command of the image as it is to be run here."""
        return [str(self.find(words[0])), *words[1:]]

    def environment_with(self, more: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a container, with what it is given."""
        return self.environment | {"PATH": os.environ["PATH"]} | dict(more)

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

    def _words(self, instruction: str) -> list[str]:
        words: list[str] = json.loads(self.last.words_of(instruction)[-1])
        return words

    def _inside(self, path: str) -> Path:
        if path.startswith(f"{_VENV}/bin"):
            return self._commands / path.removeprefix(f"{_VENV}/bin").lstrip("/")
        return self.root / path.lstrip("/")


def interpolate(text: str) -> str:
    """Replace variables by their defaults, as compose does where none is set; fail if one has no default."""
    text = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", text)
    assert not re.search(r"(?<!\$)\$(?!\$)", text)
    return text.replace("$$", "$")
