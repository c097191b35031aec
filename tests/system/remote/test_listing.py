"""`ls`: filters, order, pages, and the forms of the output."""

import json
from uuid import uuid4

import pytest

from guidsvc_client import Client
from tests.support.backing_servers import Service
from tests.support.command_line import CommandLine


@pytest.fixture
def user() -> str:
    """A user whom no other test has."""
    return f"user {uuid4().hex}"


def test_every_form_has_the_same_records(cli: CommandLine, user: str) -> None:
    made = [cli.ok("put", "--user", user, "--metadata", '{"n": 1}').json for _ in range(3)]
    expected = sorted(made, key=lambda record: str(record["guid"]))
    table = cli.ok("ls", "--user", user, "-o", "table").out.splitlines()

    assert cli.ok("ls", "--user", user).lines == expected
    assert cli.ok("ls", "--user", user, "-o", "json").json == expected
    assert table[0].split() == ["guid", "expires", "left", "user", "metadata"]
    assert [row.split()[0] for row in table[1:]] == [record["guid"] for record in expected]


def test_filters_select_by_state_and_expiry(cli: CommandLine, user: str) -> None:
    late = cli.ok("put", "--user", user, "--ttl", "2h").json["guid"]
    soon = cli.ok("put", "--user", user, "--ttl", "1h").json["guid"]
    gone = cli.ok("put", "--user", user, "--expire", "0").json["guid"]

    def listed(*words: str) -> list[str]:
        return [record["guid"] for record in cli.ok("ls", "--user", user, *words).lines]

    assert listed("--expires-within", "3h") == [soon, late]
    assert listed("--expires-within", "90m") == [soon]
    assert listed("--sort", "expire", "--limit", "1") == [soon]
    assert listed("--state", "expired") == [gone]
    assert sorted(listed("--state", "all")) == sorted([late, soon, gone])
    assert cli.ok("ls", "--user", user, "--state", "all", "--count").out == "3\n"
    assert cli.ok("ls", "--user", user, "--owner", "nobody").out == ""


def test_full_list_has_versions_and_states(cli: CommandLine, user: str) -> None:
    cli.ok("put", "--user", user)
    (record,) = cli.ok("ls", "--user", user, "--full").lines

    assert record["state"] == "live"
    assert record["version"].isdecimal()
    assert "version" in cli.ok("ls", "--user", user, "--full", "-o", "table").out.splitlines()[0]


def test_list_reads_more_than_a_page(cli: CommandLine, running: Service, user: str) -> None:
    with Client(running.url) as client:
        assert all(result.status == 201 for result in client.put_many({"user": user} for _ in range(1203)))
    listed = [json.loads(line)["guid"] for line in cli.ok("ls", "--user", user).out.splitlines()]

    assert len(listed) == len(set(listed)) == 1203
    assert len(cli.ok("ls", "--user", user, "--limit", "501").lines) == 501
    assert len(cli.ok("ls", "--user", user, "--limit", "9" * 5000).lines) > 501


@pytest.mark.parametrize("words", [["--limit", "0"], ["--state", "dead"], ["--expires-within", "soon"], ["x"]])
def test_wrong_filter_is_a_usage_error(cli: CommandLine, words: list[str]) -> None:
    assert cli("ls", *words).code == 2
