"""The rules and the dashboard in deploy/ use only metrics, labels and values that a real `/metrics` exposes."""

import re
from collections import defaultdict
from http import HTTPStatus

import pytest
import yaml

from tests.conftest import Serving
from tests.support import promql
from tests.support.backing_servers import ROOT
from tests.support.factories import GUID, USER
from tests.support.http_client import raw
from tests.support.metrics import scrape

Labels = dict[str, set[str]]
_BY_PROMETHEUS = {"up": Labels(), "ALERTS": Labels(alertname=set(), alertstate={"firing"})}
_STATUSES = {str(status.value) for status in HTTPStatus}


@pytest.fixture
async def served(serving: Serving, redis_url: str, mongo_url: str) -> dict[str, Labels]:
    """The metrics of both stores and both caches, with the values of each label."""
    metrics: dict[str, Labels] = defaultdict(lambda: defaultdict(set))
    for settings in ({"cache_url": redis_url}, {"store_url": mongo_url}):
        async with serving(**settings) as client:
            for method, path in (("PUT", f"/guid/{GUID}"), ("GET", f"/guid/{GUID}"), ("GET", "/events"), ("GET", "/x")):
                await client.ask(method, path, json={"user": USER} if method == "PUT" else None)
            for path in ("/livez", "/readyz", "/metrics"):
                assert (await client.get(path)).status == 200
            await raw(client, b"nonsense\r\n\r\n")
            samples = await scrape(client)
            while "store_url" in settings and ("guidsvc_sequencer_lag_seconds", frozenset()) not in samples:
                samples = await scrape(client)
            text = (await client.get("/metrics")).body.decode()
        for name in re.findall(r"^# TYPE (\w+)", text, re.MULTILINE):
            metrics[name]  # creates it: some have samples only with TLS, tokens or workers
        for name, labels in samples:
            values = metrics[name]
            for label, value in labels:
                values[label].add(value)
    return metrics


def with_derived(served: dict[str, Labels]) -> dict[str, Labels]:
    """Add the metrics of Prometheus itself and of the recording rules, which have the labels that they group by."""
    recorded: dict[str, Labels] = {}
    for rule in promql.rules():
        if "record" in rule:
            source = promql.selectors(rule["expr"])[0].metric
            labels = promql.grouping_labels(rule["expr"]) - {"le"}
            recorded[rule["record"]] = {label: served[source][label] for label in labels}
    return served | recorded | _BY_PROMETHEUS


async def test_rules_and_dashboard_use_served_metrics_only(served: dict[str, Labels]) -> None:
    metrics = with_derived(served)
    for expression in promql.expressions():
        for selector in promql.selectors(expression):
            assert selector.metric in metrics, expression
            assert selector.labels <= set(metrics[selector.metric]), expression
            for label, operator, value in selector.matchers:
                if label in selector.labels and not value.startswith("$"):
                    assert_that_value_exists(metrics[selector.metric][label], label, operator, value)


def assert_that_value_exists(values: set[str], label: str, operator: str, value: str) -> None:
    """Assert that a matcher matches an existing value, or a status of HTTP, as the test cannot cause them all."""
    if label == "alertname":
        values = {alert["alert"] for alert in promql.alerts()}
    values = _STATUSES if label == "status" else values
    for alternative in value.split("|"):
        pattern = alternative if "~" in operator else re.escape(alternative)
        assert any(re.fullmatch(pattern, candidate) for candidate in values), f"{label}={value}"


async def test_expressions_group_by_served_labels_only(served: dict[str, Labels]) -> None:
    metrics = with_derived(served)
    for expression in promql.expressions():
        labels = {label for selector in promql.selectors(expression) for label in metrics[selector.metric]}
        assert promql.grouping_labels(expression) <= labels, expression


async def test_descriptions_and_legends_show_served_labels_only(served: dict[str, Labels]) -> None:
    metrics = with_derived(served)
    targets = [target for panel in promql.panels() for target in panel["targets"]]
    texts = [
        *((alert["expr"], alert["annotations"]["description"]) for alert in promql.alerts()),
        *((promql.filled(target["expr"]), target["legendFormat"]) for target in targets),
    ]
    for expression, text in texts:
        labels = {label for selector in promql.selectors(expression) for label in metrics[selector.metric]}
        assert set(re.findall(r"\{\{ ?(?:\$labels\.)?([a-z]\w*) ?\}\}", text)) <= labels | {"job", "instance"}, text


def test_scrape_job_sends_a_key_to_a_job_that_the_rules_know() -> None:
    folder = ROOT / "deploy" / "prometheus"
    for name, authorization in (("prometheus.yml", {"credentials_file": "guidsvc.key"}), ("compose.yml", None)):
        loaded = yaml.safe_load((folder / name).read_text())
        (job,) = loaded["scrape_configs"]
        assert loaded["rule_files"] == ["rules.yml"]
        assert f'up{{job="{job["job_name"]}"}} == 0' in promql.alerts()[0]["expr"]
        assert job.get("authorization") == authorization, name
