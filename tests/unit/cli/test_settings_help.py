"""The text of `--help`."""

import re

import pytest

import guidsvc
from guidsvc.cli.main import serve
from guidsvc.cli.settings_help import GROUPS, settings_help
from guidsvc.config import Settings
from guidsvc.domain.durations import DURATION_FORMS, parse_duration


def test_help_explains_durations() -> None:
    text = settings_help()

    assert f"A DURATION is {DURATION_FORMS}." in " ".join(text.split())
    for example in re.findall(r"[0-9]+[smhdw]", DURATION_FORMS):
        assert parse_duration(example) > 0
    assert "--lifetime DURATION" in text


@pytest.mark.parametrize("names", GROUPS.values(), ids=GROUPS)
def test_exactly_the_settings_that_accept_a_unit_are_durations(names: dict[str, str]) -> None:
    for name, metavar in names.items():
        try:
            Settings(_env_file=None, **{name: "90s"})  # type: ignore[call-arg, arg-type]
            accepts_unit = not isinstance(Settings.model_fields[name].default, str | None)
        except ValueError:
            accepts_unit = False
        assert accepts_unit is (metavar == "DURATION"), name


def test_serve_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    serve(["--port", "1", "--version"])

    assert capsys.readouterr().out == f"guidsvc {guidsvc.__version__}\n"
