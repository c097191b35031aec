"""docs/deployment.md names files, commands and numbers that exist; test_image.py runs its docker commands."""

import re

import pytest

import guidsvc
from guidsvc.cli.commands import COMMANDS, SERVE
from guidsvc.config import Settings
from tests.support.backing_servers import ROOT
from tests.support.reverse_proxy import FILES

TEXT = (ROOT / "docs" / "deployment.md").read_text()
UPGRADING = (ROOT / "docs" / "upgrading.md").read_text()


def test_named_files_of_deploy_exist() -> None:
    names = set(re.findall(r"\bdeploy/[\w./-]*\w", TEXT + UPGRADING))

    assert len(names) >= 8
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []


def test_every_form_in_deploy_is_described() -> None:
    folders = {path.name for path in (ROOT / "deploy").iterdir()}
    overlays = {path.name for path in (ROOT / "deploy" / "kubernetes" / "overlays").iterdir()}

    assert {"kubernetes", "proxies", "systemd"} <= folders
    assert all(f"overlays/{name}" in TEXT for name in overlays)
    assert all(f"deploy/proxies/{name}" in TEXT for name in FILES.values())


def test_named_commands_exist() -> None:
    blocks = "".join(re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)) + "\n".join(re.findall(r"`([^`\n]+)`", TEXT))
    commands = set(re.findall(r"(?<!--namespace )(?<!--name )(?<!exec )\bguidsvc ([a-z]+)", blocks))

    assert {"serve", "keys", "healthcheck", "backup"} <= commands <= {SERVE, *COMMANDS}


def test_every_form_says_what_to_type_for_the_command() -> None:
    forms, commands = (re.findall(r"^\| \[?([\w ]+)", part, re.MULTILINE) for part in TEXT.split("## The command")[:2])
    last_words = {form.split()[-1] for form in forms} - {"form"}

    assert len(last_words) == 6
    assert last_words <= {command.split()[-1] for command in commands}


@pytest.mark.parametrize("page", ["runbooks", "upgrading", "backup", "failure-modes", "operations", "../deploy/README"])
def test_guides_for_operators_fit_every_form(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()

    assert "pdapt.py" not in text
    assert re.search(r"\bdeployment\.md(#the-command-guidsvc\)|`)", text)
    assert "guidsvc doctor`" in text or page in {"backup", "../deploy/README"}


def test_guides_name_the_version_of_the_package() -> None:
    release = (ROOT / "CONTRIBUTING.md").read_text().partition("\n## Release\n")[2]

    assert set(re.findall(r"guidsvc(?:_client)?-([\d.]+)-py3", TEXT)) == {guidsvc.__version__}
    assert set(re.findall(r"\b\d+\.\d+\.\d+\b", release)) == {guidsvc.__version__}


def test_named_settings_exist() -> None:
    flags = set(re.findall(r"`(--[a-z]+(?:-[a-z]+)*)", TEXT + UPGRADING))
    options = {f"--{name.replace('_', '-')}" for name in Settings.model_fields}

    assert flags - options - {"--force", "--ready"} == set()


def test_proxies_wait_for_less_than_the_idle_timeout() -> None:
    (seconds,) = re.findall(r"below `--idle-timeout` \((\d+) s\)", TEXT)

    assert int(seconds) == Settings.model_fields["idle_timeout"].default
