"""Parse the expressions of the Prometheus rules and the Grafana dashboard: the metrics and labels that they use."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import promql_parser
import yaml

from tests.support.backing_servers import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "guidsvc.json"
_INTERVALS = "$__rate_interval", "$__interval"
_LABELS_OF_TARGETS = {"job", "instance"}


@dataclass(frozen=True)
class Selector:
    """A metric in an expression, with its matchers: label, operator (`=`, `!=`, `=~` or `!~`) and value."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]

    @property
    def labels(self) -> set[str]:
        """The labels by which it selects, without those that Prometheus adds."""
        return {label for label, _, _ in self.matchers} - _LABELS_OF_TARGETS


def rules() -> list[dict[str, Any]]:
    """Return all rules, in order."""
    groups: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Return the rules that are alerts."""
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard without the row headings."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    """Return all expressions of rules and dashboard, with durations in place of Grafana's variables."""
    panel_expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    annotation_expressions = [
        expression["expr"] for expression in dashboard()["annotations"]["list"] if "expr" in expression
    ]
    return [
        *(rule["expr"] for rule in rules()),
        *(filled(expression) for expression in (*panel_expressions, *annotation_expressions)),
    ]


def filled(expression: str) -> str:
    """Return an expression of the dashboard with durations in place of Grafana's variables."""
    for name in _INTERVALS:
        expression = expression.replace(name, "5m")
    return expression


def selectors(expression: str) -> list[Selector]:
    """Return the selectors of an expression; raise ValueError if it is not valid PromQL."""
    return [
        Selector(node.name or "", tuple(_matchers(node)))
        for node in _nodes(expression)
        if isinstance(node, promql_parser.VectorSelector)
    ]


def grouping_labels(expression: str) -> set[str]:
    """Return the labels by which an expression groups or joins, without those that Prometheus adds."""
    labels: set[str] = set()
    for node in _nodes(expression):
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            labels.update(node.modifier.labels)
        elif isinstance(node, promql_parser.BinaryExpr) and node.modifier and node.modifier.matching:
            labels.update(node.modifier.matching.labels)
    return labels - _LABELS_OF_TARGETS


def _nodes(expression: str) -> list[promql_parser.Expr]:
    nodes: list[promql_parser.Expr] = []
    promql_parser.walk(promql_parser.parse(expression), nodes.append)
    return nodes


_OPERATORS = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}


def _matchers(node: promql_parser.VectorSelector) -> Iterator[tuple[str, str, str]]:
    for matcher in node.matchers.matchers:
        yield matcher.name, _OPERATORS[str(matcher.op)], matcher.value
