"""The Grafana dashboard can be imported anywhere, and each panel has a description and a unit."""

from collections import Counter
from typing import Any

import pytest

from tests.support import promql

PANELS = promql.panels()
VARIABLE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
UNITS = {"bytes", "none", "ops", "percentunit", "reqps", "s"}


def title(panel: dict[str, Any]) -> str:
    return str(panel["title"])


def test_ids_and_titles_are_unique() -> None:
    all_panels = promql.dashboard()["panels"]

    for key in ("id", "title"):
        assert [value for value, count in Counter(panel[key] for panel in all_panels).items() if count > 1] == []


@pytest.mark.parametrize("panel", PANELS, ids=title)
def test_panel_has_unit_and_description(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["description"].endswith(".")
    assert panel["targets"]
    references = [target["refId"] for target in panel["targets"]]
    assert len(set(references)) == len(references)


@pytest.mark.parametrize("panel", PANELS, ids=title)
def test_expressions_of_panel_parse_and_follow_the_variables(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        for selector in promql.selectors(promql.filled(target["expr"])):
            matchers = {label: (operator, value) for label, operator, value in selector.matchers}
            if selector.metric == "ALERTS":
                continue
            assert matchers["job"] == ("=", "$job"), target["expr"]
            if not selector.metric.startswith("guidsvc:"):
                assert matchers["instance"] == ("=~", "$instance"), target["expr"]


def test_datasource_is_a_variable_everywhere() -> None:
    dashboard = promql.dashboard()
    annotations = [item for item in dashboard["annotations"]["list"] if not item.get("builtIn")]
    queries = [item for item in dashboard["templating"]["list"] if item["type"] == "query"]
    targets = [target for panel in PANELS for target in panel["targets"]]

    assert annotations
    assert all(item["datasource"] == VARIABLE for item in (*annotations, *queries, *PANELS, *targets))
    assert [item["name"] for item in dashboard["templating"]["list"]] == ["datasource", "job", "instance"]
    assert dashboard["templating"]["list"][0]["type"] == "datasource"


def test_panels_do_not_overlap() -> None:
    cells = Counter(
        (x, y)
        for panel in promql.dashboard()["panels"]
        for position in [panel["gridPos"]]
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    )

    assert max(cells.values()) == 1
    assert max(x for x, _ in cells) < COLUMNS
