"""The image and the compose file: each command that they, README and docs name is there, and runs as it stands."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.backing_servers import ROOT, START_SECONDS, free_port, wait_until
from tests.support.image import Image, install_image, interpolate, stages
from tests.support.installed_wheel import INSTALL_SECONDS

COMPOSE: dict[str, Any] = yaml.safe_load(interpolate((ROOT / "docker-compose.yml").read_text()))
pytestmark = pytest.mark.timeout(2 * INSTALL_SECONDS)
TEXTS = [ROOT / "README.md", ROOT / "docker-compose.yml", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"docker(?:-compose| compose)(?: (?:-\w|--\w[\w-]*))* (exec|run|up|down|logs|ps|pull)\b([^`#\n]*)")
LINES = [
    (file.name, found[1], shlex.split(found[2].partition("   ")[0].rstrip(")")))
    for file in TEXTS
    for found in COMMAND.finditer(file.read_text())
]
INSIDE = [(file, words) for file, what, words in LINES if what in {"exec", "run"} and "COMMAND" not in words]
"""What is to be run in a container: which service, and its command."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def image(tmp_path: Path, commands: Path) -> Image:
    return Image(tmp_path / "image", commands)


@pytest.fixture
def settings(mongo_base: str, mongo_url: str, redis_url: str) -> dict[str, str]:
    """The environment that compose gives the app, with the databases and a port of this host."""
    environment: dict[str, str] = COMPOSE["services"]["app"]["environment"]
    assert urlsplit(environment["GUIDSVC_STORE_URL"]).hostname in COMPOSE["services"]
    here = {"GUIDSVC_STORE_URL": mongo_url, "GUIDSVC_CACHE_URL": redis_url}
    assert here.keys() < environment.keys()
    assert mongo_url.startswith(mongo_base.rstrip("/"))
    return environment | here | {"GUIDSVC_PORT": str(free_port())}


@contextmanager
def container(image: Image, settings: Mapping[str, str], *words: str) -> Iterator[None]:
    """Run what a container of the image runs, inside; `words` replace its default command."""
    log = image.root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            image.command([*image.entrypoint, *(words or image.default_command)]),
            cwd=image.folder,
            env=image.environment_with(settings),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(lambda: " at " in log.read_text() or process.poll() is not None, "the banner", log)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        assert process.wait(START_SECONDS) == 0, log.read_text()


def test_command_is_on_the_path_and_becomes_the_service(image: Image, commands: Path) -> None:
    assert image.find("guidsvc") == commands / "guidsvc"
    assert (image.entrypoint, image.default_command) == (["guidsvc"], ["serve"])
    assert image.folder == image.root / "data"
    assert image.run(["guidsvc", "keys", "--help"], {}).stdout.startswith("usage: guidsvc keys ")


def test_image_is_built_of_pinned_wheels_alone() -> None:
    installs = [line for line in stages()[0].words_of("RUN") if "pip install" in line]

    assert len(installs) == 3
    for line in installs:
        assert "--require-hashes --only-binary :all:" in line or "--no-index --no-deps /dist/*.whl" in line
    assert not [line for line in stages()[-1].words_of("RUN") if "pip" in line]


def test_image_has_the_labels_of_its_package(image: Image) -> None:
    labels = dict(line.split("=", 1) for line in image.last.words_of("LABEL"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "org.opencontainers.image."

    assert all(name.startswith(prefix) for name in labels)
    told = {name.removeprefix(prefix): value.strip('"') for name, value in labels.items()}
    assert (told.pop("title"), told.pop("description")) == (project["name"], project["description"])
    assert told.pop("licenses") == project["license"]
    arguments = {line.partition("=")[0] for line in image.last.words_of("ARG")}
    assert {value.removeprefix("$") for value in told.values()} == arguments
    assert {name.upper() for name in told} == arguments


def test_context_has_only_what_the_image_copies() -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    assert sorted(kept) == sorted(line.split()[0] for line in stages()[0].words_of("COPY"))
    assert stages()[-1].words_of("COPY") == ["--from=build /venv /venv"]


def test_container_runs_as_the_user_that_owns_its_volume(image: Image) -> None:
    (user,) = image.last.words_of("USER")
    (made,) = image.last.words_of("RUN")
    uid, gid = user.split(":")

    assert int(uid) >= 10_000
    assert COMPOSE["services"]["app"]["user"] == user
    assert f"--owner={uid} --group={gid} --mode=0750 {image.last.words_of('VOLUME')[0]}" in made
    assert not [words for words in image.last.words_of("ENV") if "STORE_URL" in words], "which could not be in a file"


def test_compose_service_runs_and_both_health_checks_pass(image: Image, settings: dict[str, str]) -> None:
    app = COMPOSE["services"]["app"]
    assert not {"command", "entrypoint"} & app.keys(), "then this test must run that"
    kind, *check = app["healthcheck"]["test"]
    assert kind == "CMD"

    for words in (check, image.health_check):
        assert image.run(words, settings).returncode == 1
    with container(image, settings):
        for words in (check, image.health_check, [*check, "--ready"]):
            done = image.run(words, settings)
            assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("ready: ")
    assert not list(image.folder.glob("*.db*")), "records are in MongoDB"


def test_image_alone_keeps_records_in_its_volume(image: Image) -> None:
    assert image.last.words_of("VOLUME") == [f"/{image.folder.name}"]
    with container(image, {"GUIDSVC_ACCESS": "keys", "GUIDSVC_PORT": str(free_port())}):
        done = image.run(["guidsvc", "keys", "create", "--owner", "alice"], {})
        assert done.returncode == 0, done.stderr
        assert f"store: {image.folder / 'guidsvc.db'}" in done.stderr


def test_health_checks_test_liveness_not_readiness(image: Image) -> None:
    for words in (image.health_check, COMPOSE["services"]["app"]["healthcheck"]["test"][1:]):
        assert words == ["guidsvc", "healthcheck"]


def test_docker_commands_name_existing_services() -> None:
    assert {"exec", "up"} <= {what for _, what, _ in LINES}
    assert len([words for _, words in INSIDE if words[0] == "app"]) >= 4
    for name, words in INSIDE:
        assert words[0] in COMPOSE["services"], (name, words)
    for file in TEXTS:
        text = file.read_text()
        assert len(COMMAND.findall(text)) == len(re.findall(r"docker(?:-compose| compose) (?:exec|run|up|down)", text))


OPTIONS = {"--rm": 0, "--read-only": 0, "--tmpfs": 1, "--volume": 1, "--publish": 1, "--name": 1}
"""Options of `docker run` that the docs use, with the number of their values."""


def docker_runs() -> list[list[str]]:
    """Return the words after the image of each `docker run` in the docs and in the Dockerfile."""
    pages = [*TEXTS, ROOT / "Dockerfile"]
    found = []
    for line in (line for page in pages for line in page.read_text().splitlines() if "docker run -" in line):
        words = shlex.split(line.lstrip("# "))[2:]
        while words[0] in OPTIONS:
            del words[: 1 + OPTIONS[words[0]]]
        assert words.pop(0) == "guidsvc", line
        found.append(words)
    return found


def test_docker_run_commands_run_as_documented(image: Image) -> None:
    port = str(free_port())
    for words in sorted(docker_runs()):  # the key first, which makes the store
        if words[0] == "serve":
            with container(image, {"GUIDSVC_PORT": port}, *words):
                assert image.run(image.health_check, {"GUIDSVC_PORT": port}).returncode == 0
        else:
            done = image.run(["guidsvc", *words], {})
            assert done.returncode == 0, done.stderr
    assert {words[0] for words in docker_runs()} == {"serve", "keys"}


def test_app_commands_run_as_documented(image: Image, settings: dict[str, str]) -> None:
    with container(image, settings):
        for file, (service, *words) in INSIDE:
            if service == "app":
                done = image.run(words, settings)
                assert done.returncode == 0, (file, words, done.stderr)
