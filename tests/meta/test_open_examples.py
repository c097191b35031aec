"""Examples without access control that listen on all addresses list host names.

The service does not know its names there. Without `--hosts` it accepts every name, and a web page could
reach it by DNS rebinding.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.backing_servers import ROOT
from tests.support.image import stages

PAGES = [ROOT / "README.md", ROOT / "Dockerfile", ROOT / "docker-compose.yml", *sorted((ROOT / "docs").rglob("*.md"))]
DEPLOYMENTS = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())
MANIFESTS = [path for path in [*PAGES, *DEPLOYMENTS] if path.suffix in {".yml", ".yaml"}]
PROGRAM = re.compile(r"[#$\s]*((?:\w+=\S* )*(?:\S*/)?(?:docker|podman|guidsvc|python[\d.]*|make) .*)")
"""Matches a line with a command, also in a comment."""
OFF = re.compile(r"--access[ =]off\b|GUIDSVC_ACCESS=off\b")
NETWORK = re.compile(r"(?:docker|podman) |(?:--host[ =]|GUIDSVC_HOST=)(?!localhost\b|127\.|::1)")
"""Found in a command of the image, which sets GUIDSVC_HOST, or of a service on another address than a loopback one."""
HOSTS = re.compile(r"--hosts[ =]\w|GUIDSVC_HOSTS=\w")


def open_commands(text: str) -> list[str]:
    """Return the commands that start the service on a network without access control."""
    lines = re.sub(r"\\\n[#\s]*", "", text).splitlines()
    commands = [match[1] for match in map(PROGRAM.match, lines) if match]
    return [command for command in commands if OFF.search(command) and NETWORK.search(command)]


def environments(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the mappings in a document, and the lists of names and values in it as mappings."""
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from environments(child)
    elif isinstance(node, list):
        yield {child["name"]: child.get("value") for child in node if isinstance(child, dict) and "name" in child}
        for child in node:
            yield from environments(child)


def open_environments(text: str) -> list[dict[str, Any]]:
    """Return the environments of containers in YAML documents that switch access control off."""
    found = [each for document in yaml.safe_load_all(text) for each in environments(document)]
    return [each for each in found if str(each.get("GUIDSVC_ACCESS")) in {"off", "False"}]


def test_image_listens_on_all_addresses() -> None:
    assert "GUIDSVC_HOST=0.0.0.0" in " ".join(stages()[-1].arguments_of("ENV"))


def test_open_commands_list_host_names() -> None:
    commands = {str(path.relative_to(ROOT)): open_commands(path.read_text()) for path in [*PAGES, *DEPLOYMENTS]}

    assert {"Dockerfile", "docs/deployment.md"} <= {name for name, found in commands.items() if found}
    assert [command for found in commands.values() for command in found if not HOSTS.search(command)] == []


def test_open_environments_list_host_names() -> None:
    found = {str(path.relative_to(ROOT)): open_environments(path.read_text()) for path in MANIFESTS}

    assert found["docker-compose.yml"]
    assert [name for name, each in found.items() if not all(variables.get("GUIDSVC_HOSTS") for variables in each)] == []


@pytest.mark.parametrize(
    ("line", "is_open"),
    [
        ("#   docker run --rm guidsvc serve --access off", True),
        ("docker run guidsvc \\\n    serve --access=off", True),
        ("docker run -e GUIDSVC_ACCESS=off guidsvc", True),
        ("guidsvc serve --host 0.0.0.0 --access off", True),
        ("GUIDSVC_HOST=:: .venv/bin/python pdapt.py --access off", True),
        ("guidsvc serve --access off", False),
        ("guidsvc serve --host 127.0.0.1 --access off", False),
        ("docker run guidsvc serve --access keys", False),
        ("`--access off` admits everybody, also in docker", False),
    ],
)
def test_open_commands_are_found(line: str, is_open: bool) -> None:
    assert bool(open_commands(line)) is is_open


def test_open_environments_are_found_in_both_forms() -> None:
    variable = {"GUIDSVC_ACCESS": "off"}

    assert open_environments('environment: {GUIDSVC_ACCESS: "off"}') == [variable]
    assert open_environments('env: [{name: GUIDSVC_ACCESS, value: "off"}]') == [variable]
