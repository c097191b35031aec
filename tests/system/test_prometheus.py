"""If Prometheus is installed, it scrapes a real service with a `monitor` key and evaluates the rules."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from tests.support import promql
from tests.support.backing_servers import ROOT, Service, free_port, pdapt, running, service, wait_until
from tests.support.optional_program import find

Ask = Callable[[str], Any]


@pytest.fixture
def secured_service(tmp_path: Path) -> Iterator[Service]:
    with service(tmp_path, "--access", "keys") as running:
        yield running


def configure(folder: Path, port: int) -> None:
    """Set up the files of deploy/prometheus, as its README says, for a service on this port."""
    shutil.copytree(ROOT / "deploy" / "prometheus", folder)
    text = (folder / "prometheus.yml").read_text()
    text = text.replace(":8888", f":{port}").replace("_interval: 15s", "_interval: 1s")
    (folder / "prometheus.yml").write_text(text)
    created = pdapt(folder.parent, "keys", "create", "--owner", "prometheus", "--scopes", "monitor")
    assert created.returncode == 0, created.stderr
    (folder / "guidsvc.key").write_text(created.stdout)


@pytest.fixture
def prometheus(secured_service: Service, tmp_path: Path) -> Iterator[Ask | None]:
    """A function that queries a Prometheus which scrapes the service; None if Prometheus is not installed."""
    program = find("prometheus")
    if program is None:
        yield None
        return
    folder, port = tmp_path / "prometheus", free_port()
    configure(folder, secured_service.port)
    options = [f"--web.listen-address=127.0.0.1:{port}", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with running([program, *options], port, folder) as server:

        def ask(path: str) -> Any:
            try:
                with urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as reply:
                    return json.load(reply)["data"]
            except URLError:
                assert server.process.poll() is None, server.log.read_text()
                return {}

        yield ask


@pytest.mark.slow
def test_prometheus_scrapes_with_a_monitor_key(prometheus: Ask | None) -> None:
    if prometheus is None:
        return

    def value(query: str) -> list[str]:
        return [sample["value"][1] for sample in prometheus(f"query?query={quote(query)}").get("result", ())]

    wait_until(lambda: value('up{job="guidsvc"}') == ["1"], "a scrape")
    wait_until(lambda: value('guidsvc_requests_total{route="/metrics",status="200"}') != [], "a second scrape")
    assert value('ALERTS{alertstate="firing"}') == []

    def rules() -> list[dict[str, str]]:
        return [rule for group in prometheus("rules").get("groups", ()) for rule in group["rules"]]

    wait_until(lambda: {rule["health"] for rule in rules()} == {"ok"}, "an evaluation of all rules")
    assert sorted(rule["name"] for rule in rules()) == sorted(
        rule.get("alert") or rule["record"] for rule in promql.rules()
    )
