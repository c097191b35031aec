"""The image of the Dockerfile, laid out in a folder, because there is no Docker where the tests run.

The wheel is built from the files that the first stage copies from the context; /venv holds that wheel and this Python.
The instructions of the last stage are parsed.
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
COMMANDS = Path("venv", "bin")
"""The commands of an image, in the folder that `install_image` has filled."""


class Stage:
    """The instructions of a stage of the Dockerfile, in order."""

    def __init__(self, text: str) -> None:
        joined = re.sub(r"\\\n\s*", "", text)
        self.instructions = [
            (match[1], match[2]) for match in re.finditer(r"^([A-Z]+) (.*)$", joined, flags=re.MULTILINE)
        ]

    def arguments_of(self, instruction: str) -> list[str]:
        """Return the arguments of all instructions of this name."""
        return [arguments for name, arguments in self.instructions if name == instruction]


def stages() -> list[Stage]:
    """Return the stages of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text()
    return [Stage(f"FROM {stage}") for stage in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]]


def install_image(folder: Path) -> None:
    """Build like the first stage, only with the files that it copies."""
    context = folder / "context"
    context.mkdir()
    for line in stages()[0].arguments_of("COPY"):
        source, target = line.split()
        destination = context / target / ("" if (ROOT / source).is_dir() else source)
        (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, destination)
    commands = install_wheel(build_wheel(context, folder / "dist"), folder / "venv")
    assert commands == folder / COMMANDS
    add_wheel(build_wheel(context / "guidsvc_client", folder / "client"), commands)


class Image:
    """An image, whose root is a folder; `commands` is its folder of commands."""

    def __init__(self, root: Path, commands: Path) -> None:
        self.root = root
        self._commands = commands
        self.last = stages()[-1]
        self.folder = self._inside(self.last.arguments_of("WORKDIR")[-1])
        self.folder.mkdir(parents=True)
        self.environment = {"PATH": _BASE_PATH}
        for assignment in " ".join(self.last.arguments_of("ENV")).split():
            name, _, value = assignment.partition("=")
            self.environment[name] = value.replace("$PATH", self.environment["PATH"])

    @property
    def entrypoint(self) -> list[str]:
        """The fixed part of the command of a container."""
        return self._json_arguments("ENTRYPOINT")

    @property
    def default_command(self) -> list[str]:
        """The arguments that follow the entry point unless the caller passes others."""
        return self._json_arguments("CMD")

    @property
    def health_check(self) -> list[str]:
        """The command of the health check."""
        command: list[str] = json.loads(self.last.arguments_of("HEALTHCHECK")[-1].partition(" CMD ")[2])
        return command

    def find(self, program: str) -> Path:
        """Return the path of a program, as a container finds it on its PATH."""
        paths = [f"{folder}/{program}" for folder in self.environment["PATH"].split(":") if folder.startswith(_VENV)]
        executables = [path for path in map(self._inside, paths) if os.access(path, os.X_OK)]
        assert executables, f"there is no {program} in the image"
        return executables[0]

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return a command of the image with the path of its program on this host."""
        return [str(self.find(arguments[0])), *arguments[1:]]

    def environment_with(self, variables: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a container with these variables added."""
        return self.environment | {"PATH": os.environ["PATH"]} | dict(variables)

    def run(self, arguments: Sequence[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command in a container to its end."""
        return subprocess.run(
            self.command(arguments),
            cwd=self.folder,
            env=self.environment_with(variables),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )

    def _json_arguments(self, instruction: str) -> list[str]:
        arguments: list[str] = json.loads(self.last.arguments_of(instruction)[-1])
        return arguments

    def _inside(self, path: str) -> Path:
        if path.startswith(f"{_VENV}/bin"):
            return self._commands / path.removeprefix(f"{_VENV}/bin").lstrip("/")
        return self.root / path.lstrip("/")


def interpolate(text: str) -> str:
    """Replace variables by their defaults, like compose if none is set; fail if one has no default."""
    text = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", text)
    assert not re.search(r"(?<!\$)\$(?!\$)", text)
    return text.replace("$$", "$")
