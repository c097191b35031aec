"""`put`, `get`, `patch`, `renew`, `revoke` and `rm` against the service."""

import json
import re
import time
from uuid import uuid4

import pytest

from tests.support.command_line import CommandLine

GUID = "9094E4C980C74043A4B586B420E69DDF"


def new_guid() -> str:
    """Return a GUID that no other test has."""
    return uuid4().hex.upper()


def test_put_creates_what_get_prints(cli: CommandLine) -> None:
    guid = new_guid()
    made = cli.ok("put", guid, "--user", "Cylance, Inc.", "--expire", "2100-01-01", "--metadata", '{"env": "é"}').json

    assert made == {"guid": guid, "expire": "4102444800", "user": "Cylance, Inc.", "metadata": {"env": "é"}}
    assert cli.ok("get", guid).json == made


def test_put_without_a_guid_draws_one(cli: CommandLine) -> None:
    made = [cli.ok("put", "--user", "a").json["guid"] for _ in range(2)]

    assert all(re.fullmatch("[0-9A-F]{32}", guid) for guid in made)
    assert made[0] != made[1]


@pytest.mark.parametrize("word", ["90d", "+90d", "7776000"])
def test_life_from_now_is_counted_by_the_service(cli: CommandLine, word: str) -> None:
    option = "--ttl" if word.isdecimal() else "--expire"
    made = cli.ok("put", "--user", "a", option, word).json

    assert int(made["expire"]) - time.time() == pytest.approx(90 * 86_400, abs=30)


@pytest.mark.parametrize("form", ["{}", "{{{}}}", "urn:uuid:{}"])
def test_guid_in_any_spelling_is_normalised_with_a_note(cli: CommandLine, form: str) -> None:
    spelling = form.format("9094e4c9-80c7-4043-a4b5-86b420e69ddf")
    noted = cli.ok("put", spelling, "--user", "a")
    silent = cli.ok("get", spelling, "--quiet")

    assert noted.json["guid"] == silent.json["guid"] == GUID
    given = cli.ok("put", "-", stdin=json.dumps({"guid": spelling, "user": "a"}))
    assert noted.err == given.err == f"guidsvc: {spelling} is read as {GUID}\n"
    assert silent.err == ""
    assert cli.ok("get", GUID).err == ""


def test_put_reads_json_from_standard_input(cli: CommandLine) -> None:
    guid = new_guid()
    record = {"guid": guid, "user": "a", "expire": "4102444800"}
    assert cli.ok("put", "-", stdin=json.dumps(record)).json == record
    assert cli.ok("put", "-", "--user", "b", stdin=json.dumps(record)).json["user"] == "b"
    assert cli.ok("put", guid.lower(), "-", stdin='{"user": "c"}').json == {**record, "user": "c"}


@pytest.mark.parametrize(
    ("words", "stdin", "fault"),
    [
        (["put", GUID, "-"], f'{{"guid": "{"0" * 32}"}}', "is for 0000"),
        (["put", "-"], "[]", "must be a JSON object"),
        (["put", "-"], "oops", "is not JSON"),
        (["put", "-"], '{"user": "a", "user": "b"}', "repeated"),
        (["put", "-"], f'{{"user": "{"a" * 70_000}"}}', "more than 65536 bytes"),
        (["put", "-"], "[" * 60_000, "standard input"),
        (["put", "--expire", "1d", "--ttl", "1d"], "", "--expire and --ttl exclude each other"),
        (["put", GUID, "--new", "--if-match", "*"], "", "--new and --if-match exclude each other"),
        (["put", "--new"], "", "need a GUID"),
        (["put", GUID, GUID], "", "name one GUID"),
        (["put", GUID, "--expire", "2027-01-01T12:00:00"], "", "needs a time zone"),
        (["put", GUID, "--expire", "soon"], "", "must be a duration from now"),
        (["put", GUID, "--if-match", "x"], "", "must be a version"),
        (["put", "xyz"], "", "is not a GUID"),
        (["patch", GUID], "", "nothing to change"),
        (["patch", "-"], "{}", "name the GUID"),
        (["put", "--user", "a\udcff"], "", "argument --user: must be UTF-8"),
        (["put", "--metadata", '{"a": "\\ud800"}'], "", "argument --metadata: must be UTF-8"),
        (["put", "--metadata", '{"a": 1e999}'], "", "1e999 is too large"),
        (["put", "--metadata", '{"a": NaN}'], "", "NaN is not a number of JSON"),
        (["put", "-"], '{"expire": []}', "has the wrong expire"),
        (["ls", "--user", "\udcff"], "", "argument --user: must be UTF-8"),
        (["get"], "", "the following arguments are required: GUID"),
        (["get", GUID, "--ful"], "", "did you mean --full?"),
    ],
)
def test_wrong_usage_exits_with_2(cli: CommandLine, words: list[str], stdin: str, fault: str) -> None:
    done = cli(*words, stdin=stdin)

    assert (done.code, done.out) == (2, "")
    assert fault in done.err


def test_new_record_must_not_exist(cli: CommandLine) -> None:
    guid = new_guid()
    cli.ok("put", guid, "--user", "a", "--new")
    again = cli("put", guid, "--user", "b", "--new")

    assert (again.code, again.out) == (4, "")
    assert "precondition-failed" in again.err
    assert cli.ok("get", guid).json["user"] == "a"


def test_change_demands_the_version(cli: CommandLine) -> None:
    guid = new_guid()
    cli.ok("put", guid, "--user", "a")
    version = cli.ok("get", guid, "--full").json["version"]
    cli.ok("put", guid, "--user", "b", "--if-match", version)
    for words in (["put", guid, "--user", "c"], ["patch", guid, "--user", "c"], ["rm", guid], ["renew", guid]):
        late = cli(*words, "--if-match", version)
        assert late.code == 4
        assert "has version" in late.err
    assert cli.ok("get", guid).json["user"] == "b"


def test_patch_merges_inside_metadata(cli: CommandLine) -> None:
    guid = new_guid()
    cli.ok("put", guid, "--user", "a", "--metadata", '{"a": 1, "b": 2}')

    assert cli.ok("patch", guid, "--metadata", '{"a": null}').json["metadata"] == {"b": 2}
    assert cli.ok("patch", guid, "-", "--expire", "2100-01-01", stdin='{"user": "b"}').json == {
        "guid": guid,
        "user": "b",
        "expire": "4102444800",
        "metadata": {"b": 2},
    }
    assert cli("patch", new_guid(), "--user", "a").code == 3


def test_life_of_a_record_ends_and_goes_on(cli: CommandLine) -> None:
    guid = new_guid()
    cli.ok("put", guid, "--user", "a", "--ttl", "60")
    renewed = cli.ok("renew", guid, "--ttl", "1h").json
    assert (renewed["renewed"], renewed["capped"], int(renewed["granted"]) in {3600, 3601}) == (True, False, True)
    assert cli.ok("renew", guid, "--ttl", "2h", "--if-below", "60").json["renewed"] is False
    assert cli.ok("get", guid, "--valid-for", "30m").json["guid"] == guid
    assert cli("get", guid, "--valid-for", "2h").code == 4

    assert cli.ok("revoke", guid).json["expire"] == "0"
    assert cli("get", guid).code == 3
    assert cli("renew", guid, "--ttl", "1h").code == 3
    assert cli.ok("renew", guid, "--ttl", "1h", "--revive").json["renewed"] is True

    removed = cli.ok("rm", guid)
    assert (removed.out, removed.err) == ("", f"guidsvc: {guid} is deleted\n")
    assert [cli(word, guid).code for word in ("get", "rm", "revoke", "renew")] == [3] * 4
    assert "Callers that may write can create it" in cli("get", guid).err
    for word in ("rm", "revoke"):
        told = cli(word, guid).err
        assert f"No GUID {guid} is registered. It was deleted before, or purged, or another owner has it." in told
        assert "create" not in told


def test_table_has_readable_times_and_escaped_text(cli: CommandLine) -> None:
    guid = new_guid()
    odd = '{"note": "\\u001b[31mred\\u202e"}'
    cli.ok("put", guid, "--user", "a", "--expire", "2100-01-01", "--metadata", odd)
    table = cli.ok("get", guid, "--full", "-o", "table").out
    shown = dict(line.split(None, 1) for line in table.splitlines())

    assert re.fullmatch(r"2100-01-01T00:00:00Z \(in \d+y\)", shown["expire"])
    assert (shown["state"], shown["guid"], shown["owner"]) == ("live", guid, "-")
    assert "\x1b" not in table
    assert "\u202e" not in table
    assert "\\u001b[31mred\\u202e" in shown["metadata"]


def test_invalid_record_lists_every_fault(cli: CommandLine) -> None:
    done = cli("put", "--user", " ", "-", stdin='{"colour": 1}')

    assert done.code == 1
    assert "user must not be blank" in done.err
    assert "colour is not a known member" in done.err
