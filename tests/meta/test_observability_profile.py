"""The profile `observability` of docker-compose.yml: it adds Prometheus and Grafana, and changes nothing else."""

from typing import Any

import pytest
import yaml

from tests.support.backing_servers import ROOT

PROFILE = "observability"


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def mounted(compose: dict[str, Any], service: str) -> dict[str, str]:
    """Return the files of this repository that are mounted into a service, by their path in its container."""
    configs = compose["configs"]
    return {config["target"]: configs[config["source"]]["file"] for config in compose["services"][service]["configs"]}


def test_only_prometheus_and_grafana_are_in_the_profile(compose: dict[str, Any]) -> None:
    services = compose["services"]
    always = {name for name, service in services.items() if "profiles" not in service}

    assert always == {"app", "mongo", "valkey"}
    for name in services.keys() - always:
        assert services[name]["profiles"] == [PROFILE]
        assert services[name]["networks"] == ["default"], "it must not reach the databases"
    for name in always:
        assert always >= set(services[name].get("depends_on", ()))
        assert "configs" not in services[name]


def test_mounted_files_exist_and_are_all_used(compose: dict[str, Any]) -> None:
    files = {file for name in ("prometheus", "grafana") for file in mounted(compose, name).values()}

    assert files == {config["file"] for config in compose["configs"].values()}
    assert all((ROOT / file).is_file() for file in files)


def test_prometheus_finds_its_configuration_and_rules(compose: dict[str, Any]) -> None:
    files = mounted(compose, "prometheus")
    (configuration,) = [
        argument.partition("=")[2]
        for argument in compose["services"]["prometheus"]["command"]
        if "config.file" in argument
    ]
    loaded = yaml.safe_load((ROOT / files[configuration]).read_text())
    (job,) = loaded["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, _, port = target.partition(":")

    folder = configuration.rpartition("/")[0]
    assert all(f"{folder}/{rules}" in files for rules in loaded["rule_files"])
    assert compose["services"][host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert host in compose["services"]["app"]["environment"]["GUIDSVC_HOSTS"].split(","), "or it gets 421"
    assert compose["services"]["app"]["environment"]["GUIDSVC_ACCESS"] == "off", "otherwise it needs a key"


def test_grafana_finds_dashboard_and_datasource(compose: dict[str, Any]) -> None:
    files = mounted(compose, "grafana")
    (provider,) = yaml.safe_load((ROOT / files["/etc/grafana/provisioning/dashboards/guidsvc.yml"]).read_text())[
        "providers"
    ]
    (datasource,) = yaml.safe_load((ROOT / files["/etc/grafana/provisioning/datasources/prometheus.yml"]).read_text())[
        "datasources"
    ]

    dashboard = f"{provider['options']['path']}/guidsvc.json"
    assert files[dashboard] == "deploy/grafana/guidsvc.json"
    environment = compose["services"]["grafana"]["environment"]
    assert environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == dashboard
    assert datasource["url"] == "http://prometheus:9090"


def test_grafana_has_no_users_and_asks_nobody_else(compose: dict[str, Any]) -> None:
    environment = compose["services"]["grafana"]["environment"]

    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true", "its password would be `admin`"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_ANALYTICS_REPORTING_ENABLED"] == "false"
