"""The compose file. There is no Docker where the tests run: they read the file and run its commands directly."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from guidsvc.config import PREFIX, Settings, split_list
from tests.support.backing_servers import ROOT, redis_server
from tests.support.image import interpolate


@pytest.fixture
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(interpolate((ROOT / "docker-compose.yml").read_text()))
    return loaded


def test_databases_are_reachable_only_by_app_with_password(compose: dict[str, Any]) -> None:
    services, environment = compose["services"], compose["services"]["app"]["environment"]

    assert compose["networks"] == {"inside": {"internal": True}}
    assert services["app"]["networks"] == ["default", "inside"]
    for name, variable in (("mongo", "GUIDSVC_STORE_URL"), ("valkey", "GUIDSVC_CACHE_URL")):
        assert services[name]["networks"] == ["inside"]
        assert "ports" not in services[name]
        url = urlsplit(environment[variable])
        assert url.username == "guidsvc"
        assert url.password == services[name]["environment"][f"{name.upper()}_PASSWORD"]
    assert "--keyFile" in services["mongo"]["command"], "without it MongoDB has no access control"


def test_web_pages_cannot_use_the_compose_service(compose: dict[str, Any]) -> None:
    """It is open to this host without a key, so it must restrict the host names that it accepts."""
    app = compose["services"]["app"]
    assert all(port.startswith("127.0.0.1:") for port in app["ports"])
    assert app["environment"]["GUIDSVC_ACCESS"] == "off"
    assert split_list(app["environment"]["GUIDSVC_HOSTS"])


def test_compose_variables_are_not_settings_of_the_service() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))

    assert used == {"MONGO_PASSWORD", "MONGO_ROOT_PASSWORD", "VALKEY_PASSWORD"}
    assert not any(name.startswith(PREFIX) for name in used)


def test_mongodb_key_file_is_created_once_and_private(compose: dict[str, Any], tmp_path: Path) -> None:
    mongo = compose["services"]["mongo"]
    key_file = tmp_path / "keyfile"
    program, flag, script, name = mongo["entrypoint"]
    (tmp_path / "docker-entrypoint.sh").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "docker-entrypoint.sh").chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [program, flag, script.replace("/data/configdb/keyfile", str(key_file)), name, *mongo["command"]]

    for _ in range(2):
        content_before = key_file.read_bytes() if key_file.exists() else None
        output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        assert output.split() == mongo["command"]
        assert content_before in {None, key_file.read_bytes()}
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch(r"[A-Za-z0-9+/=]{6,1024}", key_file.read_text()), "the format that MongoDB accepts"


def test_every_port_is_published_on_this_host_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_app_waits_for_healthy_parts_and_writes_nothing(compose: dict[str, Any]) -> None:
    app = compose["services"]["app"]

    assert {name: service["condition"] for name, service in app["depends_on"].items()} == {
        "mongo": "service_healthy",
        "valkey": "service_healthy",
    }
    assert all("healthcheck" in service for service in compose["services"].values())
    assert app["read_only"] is True
    assert app["user"].split(":")[0] != "0"


def test_volumes_are_named(compose: dict[str, Any]) -> None:
    mounted = {
        volume.partition(":")[0] for service in compose["services"].values() for volume in service.get("volumes", [])
    }

    assert mounted == set(compose["volumes"])


def test_app_environment_has_only_existing_settings(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = compose["services"]["app"]["environment"]
    dockerfile = (ROOT / "Dockerfile").read_text()

    variables = {*environment, *re.findall(r"GUIDSVC_\w+", dockerfile)}
    assert variables <= {PREFIX + name.upper() for name in Settings.model_fields}
    assert urlsplit(environment["GUIDSVC_STORE_URL"]).hostname in compose["services"]
    assert urlsplit(environment["GUIDSVC_CACHE_URL"]).hostname in compose["services"]


def test_replica_set_name_matches_the_store_url(compose: dict[str, Any]) -> None:
    mongo = compose["services"]["mongo"]
    name = mongo["command"][mongo["command"].index("--replSet") + 1]

    assert f"replicaSet={name}" in compose["services"]["app"]["environment"]["GUIDSVC_STORE_URL"]
    assert f'_id: "{name}"' in mongo["healthcheck"]["test"][-1]


def test_cache_keeps_nothing_on_disk_and_its_command_starts(compose: dict[str, Any], tmp_path: Path) -> None:
    command = compose["services"]["valkey"]["command"]

    assert command[:5] == ["valkey-server", "--save", "", "--appendonly", "no"]
    with redis_server(tmp_path, *command[1:]) as server:
        assert server.process.poll() is None
