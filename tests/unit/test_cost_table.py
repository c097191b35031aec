"""The table of costs: its comparison with a measurement, and its form in the documentation."""

import json
from pathlib import Path

import pytest

from bench.cost import table
from bench.cost.calls import Cost, rise

STORED = Cost({"guidsvc.api": 60.0, "asyncio": 40.0}, {"guidsvc.api": 10.0}, 12_345)


def test_rise_beyond_the_tolerance_names_the_layers() -> None:
    now = Cost({"guidsvc.api": 62.0, "asyncio": 39.0, "guidsvc.store": 3.0}, {})

    assert rise("create", STORED, now) == (
        "create: 104.00 Python calls instead of 100.00: guidsvc.store +3.00, guidsvc.api +2.00"
    )


@pytest.mark.parametrize("api", [50.0, 60.0, 63.0])
def test_fall_or_rise_within_the_tolerance_is_accepted(api: float) -> None:
    assert rise("create", STORED, Cost({"guidsvc.api": api, "asyncio": 40.0}, {})) is None


def test_more_c_calls_are_accepted() -> None:
    assert rise("create", STORED, STORED._replace(c={"guidsvc.api": 1000.0})) is None


def test_table_lists_the_layers_with_a_call() -> None:
    assert table.render({"create": STORED._replace(python={"guidsvc.api": 60.0, "asyncio": 40.0, "abc": 0.4})}) == (
        "| path | Python calls | C calls | instructions | Python calls by layer |\n"
        "|---|---|---|---|---|\n"
        "| create | 100 | 10 | 12,345 | api 60, asyncio 40 |"
    )


def test_python_version_without_costs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FILE", tmp_path / "costs.json")
    table.FILE.write_text("{}")

    with pytest.raises(table.MissingCosts, match=r"no costs for Python 3\.\d+; add them: python -m bench.cost --write"):
        table.load()


def test_saved_costs_replace_those_of_their_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = tmp_path / "performance.md"
    document.write_text(table.DOCUMENT.read_text())
    monkeypatch.setattr(table, "FILE", tmp_path / "costs.json")
    monkeypatch.setattr(table, "DOCUMENT", document)
    empty = Cost({}, {})._asdict()
    versions = {"3.11", table.PYTHON}
    table.FILE.write_text(json.dumps({version: {"create": empty, "update": empty} for version in versions}))

    table.save({"create": STORED})

    assert table.load() == {"create": STORED, "update": Cost({}, {})}
    assert "| update |" in document.read_text()
    table.save({"404": STORED})
    assert list(table.load()) == ["404", "create", "update"], "in the order of the paths"


def test_document_has_the_costs_of_the_table() -> None:
    text = table.DOCUMENT.read_text()

    assert table.document_with(table.render(table.load("3.11"))) == text
