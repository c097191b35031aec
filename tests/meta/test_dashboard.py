"""The Grafana dashboard: it can be imported anywhere, and each panel says what it shows, in which unit."""

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
    own = [each for each in dashboard["annotations"]["list"] if not each.get("builtIn")]
    queries = [each for each in dashboard["templating"]["list"] if each["type"] == "query"]
    targets = [target for panel in PANELS for target in panel["targets"]]

    assert own
    assert all(each["datasource"] == VARIABLE for each in (*own, *queries, *PANELS, *targets))
    assert [each["name"] for each in dashboard["templating"]["list"]] == ["datasource", "job", "instance"]
    assert dashboard["templating"]["list"][0]["type"] == "datasource"


def test_panels_do_not_overlap() -> None:
    taken = Counter(
        (x, y)
        for panel in promql.dashboard()["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    )

    assert max(taken.values()) == 1
    assert max(x for x, _ in taken) < COLUMNS
