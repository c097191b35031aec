"""docs/clients.md matches the clients: every example in Python and with curl is run.

tests/browser/test_typescript_client.py runs those in TypeScript, and tests/client/test_retries.py checks the tables of
retries.
"""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import guidsvc_client
from guidsvc_client import Client, GuidsvcError, NoResponse, Problem
from guidsvc_client.problems import CLASSES
from tests.support import curl_examples as curl
from tests.support.backing_servers import ROOT, Service, service

PAGE = (ROOT / "docs" / "clients.md").read_text()
EVENTS = PAGE.partition("## Events\n")[2].partition("\n## ")[0]
PYTHON = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", PAGE, re.DOTALL)
CURL = re.findall(r"```sh\n(curl .*?)\n```\n```http\n(.*?)\n```", PAGE, re.DOTALL)
URL = "http://127.0.0.1:8888"
SECONDS = 60


def run(text: str, url: str, folder: Path) -> str:
    """Run a program of the guide with another service URL, and return its output."""
    path = folder / "program.py"
    assert URL in text
    path.write_text(text.replace(URL, url))
    command, environment = [sys.executable, str(path)], os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def run_curl(running: Service, folder: Path) -> None:
    """Run the examples with curl."""
    for line, expected in CURL:
        printed = curl.run(line, running.port, folder, {"AT": URL, "GUID": "9094E4C980C74043A4B586B420E69DDF"})
        head, _, text = expected.partition("\n\n")
        status, *headers = head.splitlines()
        assert str(printed.status) == status, printed.text
        for name, value in (header.split(": ", 1) for header in headers):
            assert re.fullmatch(curl.pattern(value), printed.headers[name] or ""), name
        assert re.fullmatch(curl.pattern(text), printed.text.rstrip("\n"), re.DOTALL), printed.text


def test_client_examples_print_as_documented(tmp_path: Path) -> None:
    assert len(PYTHON) == PAGE.count("```python") > 5
    assert len(CURL) == PAGE.count("```http") == PAGE.count("```sh\ncurl ") > 0
    with service(tmp_path) as running:
        for text, expected in PYTHON:
            if text not in EVENTS:
                assert run(text, running.url, tmp_path) == expected, text
        run_curl(running, tmp_path)


def test_example_of_the_package_runs(tmp_path: Path) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", (ROOT / "guidsvc_client" / "README.md").read_text(), re.DOTALL)
    with service(tmp_path) as running:
        assert run(text, running.url, tmp_path) == ""


def test_event_example_prints_as_documented(tmp_path: Path) -> None:
    ((text, expected),) = [example for example in PYTHON if example[0] in EVENTS]
    with service(tmp_path) as running, Client(running.url) as guids:
        created = guids.create(user="worker 7")
        guids.patch(created.guid, {"metadata": {"a": 1}})
        guids.delete(created.guid)
        assert run(text, running.url, tmp_path) == expected


def rows(section: str) -> list[list[str]]:
    """Return the cells of the tables of a section, without their heads and the marks of code."""
    text = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^\|(?! class)(?!---)(.*)\|$", text, re.MULTILINE)
    return [[cell.strip().replace("`", "") for cell in line.split("|")] for line in lines]


def test_errors_of_the_guide_are_those_of_the_client() -> None:
    problems = {row[0]: (row[1], row[2]) for row in rows("Errors") if len(row) == 3}
    base_classes = {row[0] for row in rows("Errors") if len(row) == 2}

    assert problems == {kind.__name__: (code, ", ".join(properties(kind))) for code, kind in CLASSES.items()}
    exported = [getattr(guidsvc_client, name) for name in guidsvc_client.__all__]
    errors = {item for item in exported if inspect.isclass(item) and issubclass(item, GuidsvcError)}
    assert base_classes == {item.__name__ for item in errors - {*CLASSES.values(), GuidsvcError, NoResponse, Problem}}


def properties(kind: type) -> list[str]:
    """Return the names of the properties of a class, sorted."""
    return sorted(
        {name for base in kind.__mro__ for name, member in vars(base).items() if isinstance(member, property)}
    )


def test_methods_of_the_guide_exist() -> None:
    text = PAGE.partition("| to | Python |\n")[2].partition("\n\n")[0]
    names = set(re.findall(r"`(?:keys\.)?(\w+)\(", text)) - {"pages", "total"}
    methods = {name for name in dir(Client) if not name.startswith("_")}

    assert {name for name in names if not hasattr(Client, name)} == {"rotate", "revoke"}, "methods of keys"
    assert methods - names == {"close", "events", "keys", "lease", "with_options"}, "described in sections of their own"


@pytest.mark.parametrize("name", ["README.md", "docs/index.md", "docs/architecture.md", "CONTRIBUTING.md"])
def test_page_mentions_the_client(name: str) -> None:
    assert re.search(r"guidsvc_client|clients", (ROOT / name).read_text())
