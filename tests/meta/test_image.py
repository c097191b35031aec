"""The image and the compose file: every command in them, in README and in docs exists and runs as written."""

import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.backing_servers import ROOT, START_SECONDS, free_port, wait_until
from tests.support.image import COMMANDS, Image, install_image, interpolate, stages
from tests.support.installed_wheel import INSTALL_SECONDS
from tests.support.shared_folder import shared_folder

COMPOSE: dict[str, Any] = yaml.safe_load(interpolate((ROOT / "docker-compose.yml").read_text()))
pytestmark = pytest.mark.timeout(2 * INSTALL_SECONDS)
PAGES = [ROOT / "README.md", ROOT / "docker-compose.yml", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"docker(?:-compose| compose)(?: (?:-\w|--\w[\w-]*))* (exec|run|up|down|logs|ps|pull)\b([^`#\n]*)")
DOCKER_COMMANDS = [
    (file.name, match[1], shlex.split(match[2].partition("   ")[0].rstrip(")")))
    for file in PAGES
    for match in COMMAND.finditer(file.read_text())
]
CONTAINER_COMMANDS = [
    (file, arguments)
    for file, subcommand, arguments in DOCKER_COMMANDS
    if subcommand in {"exec", "run"} and "COMMAND" not in arguments
]
"""Commands to be run in a container, by file: the service and its command line."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared_folder(tmp_path_factory, "image", install_image) / COMMANDS


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
def container(image: Image, settings: Mapping[str, str], *arguments: str) -> Iterator[None]:
    """Run the command of a container inside the block; `arguments` replace its default command."""
    log = image.root / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            image.command([*image.entrypoint, *(arguments or image.default_command)]),
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
    installs = [line for line in stages()[0].arguments_of("RUN") if "pip install" in line]

    assert len(installs) == 3
    for line in installs:
        assert "--require-hashes --only-binary :all:" in line or "--no-index --no-deps /dist/*.whl" in line
    assert not [line for line in stages()[-1].arguments_of("RUN") if "pip" in line]


def test_image_has_the_labels_of_its_package(image: Image) -> None:
    labels = dict(line.split("=", 1) for line in image.last.arguments_of("LABEL"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "org.opencontainers.image."

    assert all(name.startswith(prefix) for name in labels)
    label_values = {name.removeprefix(prefix): value.strip('"') for name, value in labels.items()}
    assert (label_values.pop("title"), label_values.pop("description")) == (project["name"], project["description"])
    assert label_values.pop("licenses") == project["license"]
    arguments = {line.partition("=")[0] for line in image.last.arguments_of("ARG")}
    assert {value.removeprefix("$") for value in label_values.values()} == arguments
    assert {name.upper() for name in label_values} == arguments


def test_context_has_only_what_the_image_copies() -> None:
    included = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]

    assert sorted(included) == sorted(line.split()[0] for line in stages()[0].arguments_of("COPY"))
    assert stages()[-1].arguments_of("COPY") == ["--from=build /venv /venv"]


def test_container_runs_as_the_user_that_owns_its_volume(image: Image) -> None:
    (user,) = image.last.arguments_of("USER")
    (run_command,) = image.last.arguments_of("RUN")
    uid, gid = user.split(":")

    assert int(uid) >= 10_000
    assert COMPOSE["services"]["app"]["user"] == user
    assert f"--owner={uid} --group={gid} --mode=0750 {image.last.arguments_of('VOLUME')[0]}" in run_command
    assert not [variables for variables in image.last.arguments_of("ENV") if "STORE_URL" in variables], (
        "a variable in the image would rule out a file"
    )


@pytest.mark.slow
def test_compose_service_runs_and_both_health_checks_pass(image: Image, settings: dict[str, str]) -> None:
    app = COMPOSE["services"]["app"]
    assert not {"command", "entrypoint"} & app.keys(), "this test would have to run it"
    kind, *check = app["healthcheck"]["test"]
    assert kind == "CMD"

    assert check == image.health_check, "this test would have to run both"
    assert image.run(check, settings).returncode == 1
    with container(image, settings):
        for command in (check, [*check, "--ready"]):
            process = image.run(command, settings)
            assert process.returncode == 0, process.stderr
        assert process.stdout.startswith("ready: ")
    assert not list(image.folder.glob("*.db*")), "records are in MongoDB"


def test_image_alone_keeps_records_in_its_volume(image: Image) -> None:
    assert image.last.arguments_of("VOLUME") == [f"/{image.folder.name}"]
    with container(image, {"GUIDSVC_ACCESS": "keys", "GUIDSVC_PORT": str(free_port())}):
        process = image.run(["guidsvc", "keys", "create", "--owner", "alice"], {})
        assert process.returncode == 0, process.stderr
        assert f"store: {image.folder / 'guidsvc.db'}" in process.stderr


def test_health_checks_test_liveness_not_readiness(image: Image) -> None:
    for command in (image.health_check, COMPOSE["services"]["app"]["healthcheck"]["test"][1:]):
        assert command == ["guidsvc", "healthcheck"]


def test_docker_commands_name_existing_services() -> None:
    assert {"exec", "up"} <= {subcommand for _, subcommand, _ in DOCKER_COMMANDS}
    assert len([arguments for _, arguments in CONTAINER_COMMANDS if arguments[0] == "app"]) >= 4
    for name, arguments in CONTAINER_COMMANDS:
        assert arguments[0] in COMPOSE["services"], (name, arguments)
    for file in PAGES:
        text = file.read_text()
        assert len(COMMAND.findall(text)) == len(re.findall(r"docker(?:-compose| compose) (?:exec|run|up|down)", text))


OPTIONS = {"--rm": 0, "--read-only": 0, "--tmpfs": 1, "--volume": 1, "--publish": 1, "--name": 1}
"""Options of `docker run` that the docs use, with the number of their values."""


def docker_runs() -> list[list[str]]:
    """Return the arguments after the image of each `docker run` in the docs and in the Dockerfile."""
    pages = [*PAGES, ROOT / "Dockerfile"]
    commands = []
    for line in (line for page in pages for line in page.read_text().splitlines() if "docker run -" in line):
        arguments = shlex.split(line.lstrip("# "))[2:]
        while arguments[0] in OPTIONS:
            del arguments[: 1 + OPTIONS[arguments[0]]]
        assert arguments.pop(0) == "guidsvc", line
        commands.append(arguments)
    return commands


def status_for(host: str, port: int) -> int:
    """Return the status of a list of GUIDs that is requested under a host name."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)) as connection:
        connection.request("GET", "/guid", headers={"Host": f"{host}:{port}"})
        return connection.getresponse().status


@pytest.mark.slow
def test_docker_run_commands_run_as_documented(image: Image) -> None:
    port = str(free_port())
    for arguments in sorted(set(map(tuple, docker_runs()))):  # `keys` first, which creates the store
        if arguments[0] == "serve":
            with container(image, {"GUIDSVC_PORT": port}, *arguments):
                assert image.run(image.health_check, {"GUIDSVC_PORT": port}).returncode == 0
                statuses = {host: status_for(host, int(port)) for host in ("127.0.0.1", "localhost", "page.example")}
                assert statuses == {"127.0.0.1": 200, "localhost": 200, "page.example": 421}, arguments
        else:
            process = image.run(["guidsvc", *arguments], {})
            assert process.returncode == 0, process.stderr
    assert {arguments[0] for arguments in docker_runs()} == {"serve", "keys"}


@pytest.mark.slow
def test_app_commands_run_as_documented(image: Image, settings: dict[str, str]) -> None:
    commands = {tuple(arguments): file for file, (service, *arguments) in CONTAINER_COMMANDS if service == "app"}
    with container(image, settings):
        for arguments, file in commands.items():
            process = image.run(arguments, settings)
            assert process.returncode == 0, (file, arguments, process.stderr)
