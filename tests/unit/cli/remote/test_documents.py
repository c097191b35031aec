"""Records as documents of the interface, and as members of tables."""

import json
import time

import pytest

from guidsvc.cli.remote.documents import cell, from_now, json_text, record_document, record_members, record_row
from guidsvc_client import FullRecord, Record

GUID = "9094E4C980C74043A4B586B420E69DDF"
WIRE = {
    "guid": GUID,
    "expire": "4102444800",
    "user": "Cylance, Inc.",
    "metadata": {"env": "test"},
    "created": "1795420608123",
    "updated": "1795420608123",
    "version": "1795420608123",
    "purge_at": "4103049600",
    "renew_at": None,
    "max_expire": None,
    "state": "live",
    "owner": "",
}
BRIEF = {name: WIRE[name] for name in ("guid", "expire", "user", "metadata")}


@pytest.mark.parametrize(("kind", "wire"), [(Record, BRIEF), (FullRecord, WIRE)])
def test_document_is_that_of_the_interface(kind: type[Record], wire: dict[str, object]) -> None:
    assert record_document(kind.from_wire(wire)) == wire


def test_owner_that_is_not_shown_stays_away() -> None:
    wire = {name: value for name, value in WIRE.items() if name != "owner"}
    full = FullRecord.from_wire(wire)

    assert record_document(full) == wire
    assert "owner" not in record_members(full)


def test_table_shows_times_of_people() -> None:
    full = FullRecord.from_wire(WIRE)

    assert record_members(full)["purge_at"] == "2100-01-08T00:00:00Z"
    assert record_members(full)["max_expire"] == "no limit"
    assert record_row(full)["expires"] == "2100-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(90, "in 1m"), (7300, "in 2h"), (86_400 * 800, "in 2y"), (-90, "1m ago"), (-3700, "1h ago"), (0.2, "now")],
)
def test_time_from_now_is_in_its_largest_unit(seconds: float, shown: str) -> None:
    assert from_now(time.time() + seconds) == shown


@pytest.mark.parametrize("text", ["\x1b[31m", "\x9b", "\u202e", "\u2028", "\U000e0001", "\x00", "\ud800"])
def test_json_escapes_what_a_terminal_would_hide(text: str) -> None:
    shown = json_text({"é": text})

    assert shown.isprintable()
    assert "é" in shown
    assert json.loads(shown) == {"é": text}
    assert json.loads(json_text({"é": text}, indent=2)) == {"é": text}


def test_long_cell_is_cut() -> None:
    assert cell("x" * 48) == "x" * 48
    assert cell("x" * 49) == f"{'x' * 45}..."
