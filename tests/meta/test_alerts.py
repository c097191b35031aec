"""The Prometheus rules: valid, documented, with a runbook and tests for each alert. `promtool` runs the tests."""

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from guidsvc.config import Settings
from tests.support import promql
from tests.support.backing_servers import ROOT
from tests.support.optional_program import find, run

FOLDER = promql.RULES.parent
TESTS = (FOLDER / "rules.test.yml", FOLDER / "rules.day.test.yml")
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PARTS = ["What it means.", "What clients see.", "Look here.", "Do this.", "It is over when"]


def row(alert: dict[str, Any]) -> str:
    """Return the row of an alert in docs/operations.md."""
    link = f"[{alert['alert']}](runbooks.md#{alert['alert'].lower()})"
    when = alert["annotations"]["summary"]
    return f"| {link} | {alert['labels']['severity']} | {alert.get('for', 'at once')} | {when} |"


@pytest.mark.parametrize("rule", promql.rules(), ids=lambda rule: str(rule.get("alert") or rule["record"]))
def test_rule_parses(rule: dict[str, Any]) -> None:
    assert promql.selectors(rule["expr"])
    assert set(rule) <= {"alert", "record", "expr", "for", "labels", "annotations"}


def test_alerts_are_labelled_and_described() -> None:
    for alert in promql.alerts():
        name, annotations = alert["alert"], alert["annotations"]
        assert re.fullmatch(r"Guidsvc([A-Z][a-z]+)+", name)
        assert alert["labels"] in ({"severity": "critical"}, {"severity": "warning"}), name
        assert set(annotations) == {"summary", "description", "runbook_url"}, name
        assert annotations["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
        assert "{{" not in annotations["summary"], "the docs show it too"
        assert "{{ $value" in annotations["description"] or name in {
            "GuidsvcDown",
            "GuidsvcRedisDown",
            "GuidsvcStoreReadOnly",
        }
        assert all(text.endswith(".") for text in (annotations["summary"], annotations["description"])), name


def test_operations_page_lists_exactly_the_alerts() -> None:
    table = OPERATIONS.partition("## What to alert on\n")[2].partition("\n## ")[0]

    assert re.findall(r"^\|.*\|$", table, re.MULTILINE)[2:] == [row(alert) for alert in promql.alerts()]


def test_each_alert_has_a_runbook_with_all_parts() -> None:
    sections = re.split(r"^## (.*)\n", RUNBOOKS, flags=re.MULTILINE)[1:]

    names = Counter(alert["alert"] for alert in promql.alerts())
    assert sections[::2] == list(names), "in the same order"
    for name, text in zip(sections[::2], sections[1::2], strict=True):
        assert re.findall(r"^\*\*(.*?)\*\*", text, re.MULTILINE) == PARTS, name


def test_runbooks_name_existing_panels() -> None:
    panel_titles = {panel["title"] for panel in promql.panels()}
    mentions = re.findall(r"[Pp]anels? ((?:\*[^*]+\*(?:, | and )?(?:the store's )?)+)", RUNBOOKS)
    titles = {title for mention in mentions for title in re.findall(r"\*([^*]+)\*", mention)}

    assert len(titles) >= 15
    assert titles <= panel_titles


def test_runbooks_quote_existing_log_lines() -> None:
    code = "".join(path.read_text() for path in (ROOT / "guidsvc").rglob("*.py"))
    mentions = re.findall(r"log (?:lines?|says) ((?:`[^`]+`(?:, | and | or )?)+)", " ".join(RUNBOOKS.split()))
    lines = {line for mention in mentions for line in re.findall(r"`([^`]+)`", mention)}

    assert len(lines) >= 15
    assert [line for line in lines if f'"{line}' not in code] == []


def test_numbers_of_settings_are_their_defaults() -> None:
    settings = Settings.model_construct()
    by_name = {rule["alert"]: rule["expr"] for rule in promql.alerts()}

    assert f"< {settings.events_retention / 10:.0f} " in by_name["GuidsvcEventsRemovedEarly"]


def test_each_alert_has_tests_near_its_threshold() -> None:
    tested = Counter[tuple[str, bool]]()
    for test in (test for file in TESTS for test in yaml.safe_load(file.read_text())["tests"]):
        for query in test.get("promql_expr_test", ()):
            for alert in re.findall(r'alertname="(\w+)"', query["expr"]):
                tested[alert, bool(query["exp_samples"])] += 1

    for name, count in Counter(alert["alert"] for alert in promql.alerts()).items():
        assert tested[name, True] >= count, f"a test of {name} that fires"
        assert tested[name, False] >= count, f"a test of {name} that does not fire"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "rules.yml"), *(("test", "rules", file.name) for file in TESTS)],
    ids=" ".join,
)
def test_promtool_accepts_the_rules(arguments: tuple[str, ...]) -> None:
    promtool = find("promtool")
    if promtool is None:
        return
    process = run(promtool, *arguments, folder=FOLDER)

    assert process.returncode == 0, process.stdout + process.stderr
    assert "SUCCESS" in process.stdout + process.stderr


@pytest.mark.parametrize("name", ["prometheus.yml", "compose.yml"])
def test_promtool_accepts_the_scrape_configuration(name: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "prometheus")
    (tmp_path / "prometheus" / "guidsvc.key").write_text("gs_key\n")
    promtool = find("promtool")
    if promtool is None:
        return
    process = run(promtool, "check", "config", name, folder=tmp_path / "prometheus")

    assert process.returncode == 0, process.stdout + process.stderr
