"""The report of a command that cannot start."""

from guidsvc.cli.start_failure import report_text
from guidsvc.errors import StartError


def test_control_characters_of_other_servers_are_escaped() -> None:
    text = report_text(StartError("cache_url: Redis denies a command: \x1b[31mred\x9b0m"), [])

    assert text.endswith(r"Redis denies a command: \x1b[31mred\x9b0m")
