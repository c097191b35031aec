"""The manifests of deploy/kubernetes parse, name existing things, and render if kubectl is installed.

There is no cluster where the tests run.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import guidsvc
from guidsvc.api.app import make_routes
from guidsvc.api.resources.batch.document_batch import MAX_RESULT_BYTES
from guidsvc.api.resources.batch.slots import DOCUMENTS, SMALL_DOCUMENTS
from guidsvc.config import PREFIX, Settings
from guidsvc.process.worker_channel import MARGIN_SECONDS
from guidsvc.runtime.temporary_space import BUFFERED_PART, MIB
from tests.support.backing_servers import ROOT
from tests.support.image import stages
from tests.support.open_requests import (
    LARGE_DOCUMENT_BYTES,
    OPEN_REQUEST_BYTES,
    SMALL_DOCUMENT_BYTES,
    TLS_CONNECTION_BYTES,
)
from tests.support.optional_program import find, run

FOLDER = ROOT / "deploy" / "kubernetes"
FILES = sorted(FOLDER.rglob("*.yaml"))
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
LABELS = {"app.kubernetes.io/name": "guidsvc"}

Document = dict[str, Any]


def documents(text: str) -> list[Document]:
    """Return the documents of a YAML text."""
    return [document for document in yaml.safe_load_all(text) if document]


def base(kind: str) -> Document:
    """Return the only object of a kind in the base."""
    all_documents = [
        document for path in FILES if path.parent.name == "base" for document in documents(path.read_text())
    ]
    (only,) = (document for document in all_documents if document["kind"] == kind)
    return only


@pytest.fixture
def pod() -> Document:
    """The specification of the pods."""
    template: Document = base("Deployment")["spec"]["template"]
    assert template["metadata"]["labels"] == LABELS
    specification: Document = template["spec"]
    return specification


@pytest.fixture
def container(pod: Document) -> Document:
    (one,) = pod["containers"]
    return dict(one)


def test_memory_limit_covers_all_that_the_bounds_allow(container: Document) -> None:
    settings = Settings.model_validate({"access": "off"})
    parts = {
        "cache": settings.cache_size,
        "requests, twice while they are decoded": 2 * settings.max_incoming_bytes,
        "responses": settings.max_unsent_bytes,
        "waiting lines": settings.temp_bytes // BUFFERED_PART,
        "large documents": DOCUMENTS * LARGE_DOCUMENT_BYTES,
        "small documents": SMALL_DOCUMENTS * SMALL_DOCUMENT_BYTES,
        "results of documents": (DOCUMENTS + SMALL_DOCUMENTS) * MAX_RESULT_BYTES,
        "open requests": settings.max_connections * OPEN_REQUEST_BYTES,
        "program": 64 * MIB,
    }
    assert container["resources"]["limits"]["memory"] == "1536Mi"
    assert sum(parts.values()) <= 1536 * MIB, parts
    section = (ROOT / "docs" / "security.md").read_text().partition("## Memory")[2].partition("\n#")[0]
    assert [int(size) for size in re.findall(r"^\|.*\| (\d+) MiB \|", section, re.MULTILINE)] == [
        -(-size // MIB) for size in parts.values()
    ]
    tls_bytes = settings.max_connections * TLS_CONNECTION_BYTES
    assert f"{TLS_CONNECTION_BYTES // 1024} KiB" in section
    assert f"{-(-tls_bytes // MIB)} MiB" in section
    assert sum(parts.values()) + tls_bytes <= 4.5 * 1024 * MIB
    assert "4.5 GiB" in section


def test_every_manifest_names_its_kind() -> None:
    assert len(FILES) >= 8
    for path in FILES:
        for document in documents(path.read_text()):
            assert {"apiVersion", "kind"} <= document.keys(), path


def test_kustomizations_name_files_that_exist() -> None:
    for path in FILES:
        if path.name == "kustomization.yaml":
            (document,) = documents(path.read_text())
            for name in [*document.get("resources", []), *document.get("components", [])]:
                assert (path.parent / name).exists(), (path, name)
            other_files = {file.name for file in path.parent.glob("*.yaml")} - {path.name}
            assert other_files == {name for name in document.get("resources", []) if name.endswith(".yaml")}


def settings_in(document: object) -> Iterator[str]:
    """Yield the variables of the service in a document."""
    yield from re.findall(rf"\b{PREFIX}\w+", yaml.safe_dump(document))


def test_variables_of_the_manifests_are_settings() -> None:
    variables = {PREFIX + name.upper() for name in Settings.model_fields}
    used = {name for path in FILES for document in documents(path.read_text()) for name in settings_in(document)}

    assert used
    assert {name.removesuffix("_FILE") for name in used} <= variables


def test_selectors_select_the_pods_of_the_service() -> None:
    assert base("Deployment")["spec"]["selector"] == {"matchLabels": LABELS}
    assert base("Service")["spec"]["selector"] == base("Service")["metadata"]["labels"] == LABELS
    assert base("PodDisruptionBudget")["spec"]["selector"] == {"matchLabels": LABELS}
    assert base("NetworkPolicy")["spec"]["podSelector"] == {"matchLabels": LABELS}


def test_probes_ask_paths_that_are_served(container: Document) -> None:
    served = {route.path for route in make_routes()}
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}

    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}
    assert set(paths.values()) <= served
    (port,) = container["ports"]
    assert container["livenessProbe"]["httpGet"]["port"] == port["name"]
    assert str(port["containerPort"]) == stages()[-1].arguments_of("EXPOSE")[0]


def test_pod_runs_with_the_rights_of_the_image(pod: Document, container: Document) -> None:
    (user,) = stages()[-1].arguments_of("USER")
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == user
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["enableServiceLinks"] is pod["automountServiceAccountToken"] is False


def test_pod_has_time_to_end_by_itself(pod: Document, container: Document) -> None:
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = Settings.model_fields["grace"].default

    assert pod["terminationGracePeriodSeconds"] > waits + grace + MARGIN_SECONDS


def test_temporary_files_of_batches_fit(pod: Document) -> None:
    (limit,) = (volume["emptyDir"]["sizeLimit"] for volume in pod["volumes"] if volume["name"] == "tmp")

    assert int(limit.removesuffix("Mi")) * 2**20 >= 2 * Settings.model_fields["temp_bytes"].default


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_use_the_version_of_the_package(name: str) -> None:
    (document,) = documents((FOLDER / "overlays" / name / "kustomization.yaml").read_text())

    assert [image["newTag"] for image in document["images"]] == [guidsvc.__version__]


def rendered(folder: Path) -> dict[str, Document] | None:
    """Return the objects of an overlay by kind, as kubectl renders them; None if it is not installed."""
    kubectl = find("kubectl")
    if kubectl is None:
        return None
    process = run(kubectl, "kustomize", str(folder))
    assert process.returncode == 0, process.stderr
    return {document["kind"]: document for document in documents(process.stdout)}


@pytest.mark.parametrize("name", OVERLAYS)
def test_overlay_renders_in_its_namespace(name: str) -> None:
    objects = rendered(FOLDER / "overlays" / name)
    if objects is None:  # the tests above cover the files themselves
        return
    assert {"Service", "NetworkPolicy", "PodDisruptionBudget"} < objects.keys()
    assert {item["metadata"]["namespace"] for item in objects.values()} == {"guidsvc"}
    (workload,) = (objects[kind] for kind in ("Deployment", "StatefulSet") if kind in objects)
    pod = workload["spec"]["template"]["spec"]
    mounted = {item["name"] for item in pod["containers"][0]["volumeMounts"]}
    claimed = {item["metadata"]["name"] for item in workload["spec"].get("volumeClaimTemplates", [])}
    assert mounted == {item["name"] for item in pod["volumes"]} | claimed
    assert pod["containers"][0]["image"].endswith(f"/guidsvc:{guidsvc.__version__}")


def test_overlay_on_sqlite_runs_one_pod_on_its_volume() -> None:
    objects = rendered(FOLDER / "overlays" / "sqlite")
    if objects is None:
        return
    assert "Deployment" not in objects
    specification = objects["StatefulSet"]["spec"]
    (container,) = specification["template"]["spec"]["containers"]
    assert specification["replicas"] == 1
    assert {"name": "data", "mountPath": stages()[-1].arguments_of("VOLUME")[0]} in container["volumeMounts"]
    assert not [variable for variable in container["env"] if "URL" in variable["name"]], (
        "it uses the default store and cache"
    )


def test_overlay_on_mongodb_is_monitored_and_reads_url_files() -> None:
    objects = rendered(FOLDER / "overlays" / "mongodb")
    if objects is None:
        return
    assert objects["ServiceMonitor"]["spec"]["endpoints"][0]["path"] == "/metrics"
    assert len(objects["NetworkPolicy"]["spec"]["ingress"]) == 2
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (folder,) = (item["mountPath"] for item in pod["containers"][0]["volumeMounts"] if item["name"] == "urls")
    files = [item["value"] for item in pod["containers"][0]["env"] if item["name"].endswith("_URL_FILE")]
    assert sorted(files) == [f"{folder}/cache-url", f"{folder}/store-url"]
