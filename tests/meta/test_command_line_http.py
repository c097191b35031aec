"""docs/command-line-http.md matches the commands over HTTP: examples are run, and exit codes compared."""

import re
import shlex
from pathlib import Path

import pytest

from guidsvc.api.contract import problems
from guidsvc.cli.commands import SUMMARIES
from guidsvc.cli.remote.failures import exit_code
from guidsvc_client.problems import problem_of
from tests.support.backing_servers import ROOT, service
from tests.support.command_line import REMOTE_COMMANDS, CommandLine
from tests.support.curl_examples import pattern

PAGE = (ROOT / "docs" / "command-line-http.md").read_text()
EXAMPLES = re.findall(r"```sh\n(.*?)```\n```text\n(.*?)```", PAGE, re.DOTALL)
ROWS = re.findall(r"^\| (\d+) \| .* \| (.*) \|$", PAGE, re.MULTILINE)


def test_every_example_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with service(tmp_path) as running:
        cli = CommandLine(tmp_path, running.url)
        for lines, expected in EXAMPLES:
            printed = "".join(cli.ok(*shlex.split(line)[1:]).out for line in lines.splitlines())
            printed = printed.replace(running.url, "http://127.0.0.1:8888")
            assert re.fullmatch(pattern(expected), printed, re.DOTALL), (lines, printed)
    assert len(EXAMPLES) == PAGE.count("```sh\n") > 5


@pytest.mark.parametrize("is_write", [False, True], ids=["read", "change"])
def test_exit_codes_of_all_problems_are_in_the_table(is_write: bool) -> None:
    documented = {
        code: int(number)
        for number, cell in ROWS
        for code in re.findall("`([a-z-]+)`(?!`)", cell)
        if code != "internal"
    }
    documented["internal"] = 7 if is_write else 1
    of_events_gone = dict.fromkeys(("reason", "oldest", "now"), "-")
    actual = {}
    for kind in {*problems.TABLE.values(), problems.INTERNAL}:
        members = {"code": kind.code, "status": kind.status, "title": kind.title, "type": f"/problems/{kind.code}"}
        actual[kind.code] = exit_code(problem_of(members | of_events_gone, {}), is_write=is_write)

    assert documented == actual


def test_every_command_is_in_the_table() -> None:
    documented = set(re.findall(r"`guidsvc ([a-z]+)", PAGE.partition("## Install")[0]))

    assert documented == set(REMOTE_COMMANDS)
    assert documented <= SUMMARIES.keys()
