"""The report of a command that cannot start."""

import json
from pathlib import Path

import pytest

from guidsvc.cli.start_failure import report_text
from guidsvc.errors import StartError


def test_control_characters_of_other_servers_are_escaped() -> None:
    text = report_text(StartError("cache_url: Redis denies a command: \x1b[31mred\x9b0m"), [])

    assert text.endswith(r"Redis denies a command: \x1b[31mred\x9b0m")


@pytest.mark.parametrize("words", [[], ["serve"], ["--port", "x"], ["nonsense"], ["--help-me"]])
@pytest.mark.parametrize("source", ["variable", "file", ".env"])
def test_every_failed_start_is_json_with_the_json_log(
    words: list[str], source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "format").write_text("json\n")
    if source == "variable":
        monkeypatch.setenv("GUIDSVC_LOG_FORMAT", "json")
    elif source == "file":
        monkeypatch.setenv("GUIDSVC_LOG_FORMAT_FILE", "format")
    else:
        (tmp_path / ".env").write_text("GUIDSVC_LOG_FORMAT=json\n")
    lines = [json.loads(line) for line in report_text(StartError("a\nb"), words).splitlines()]

    assert [(line["event"], line["error"]) for line in lines] == [("start failed", "a"), ("start failed", "b")]
    assert report_text(StartError("a"), ["keys", "list"]).endswith(": a")
