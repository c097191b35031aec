"""The doctor on faults of the host, and on services that answer with something wrong."""

import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import guidsvc
from guidsvc.config import Settings
from guidsvc.doctor import host, http_probe, service
from guidsvc.doctor import settings as settings_checks
from guidsvc.doctor.checks import Check, run_checks
from guidsvc.doctor.findings import Finding, bounded, fail
from guidsvc.time_limit import TimeLimitExceeded
from tests.support.ordinary_user import ordinary_user


def given(**values: Any) -> Settings:
    """Return settings without those of the environment."""
    return Settings(_env_file=None, **values)  # type: ignore[call-arg]


def found(checks: Any, name: str) -> Finding:
    """Return what one check finds."""
    (result,) = run_checks([each for each in checks if isinstance(each, Check) and each.name == name], (), str)
    return result.finding


@pytest.mark.parametrize("text", ["http://127.0.0.1:1: no response", "see http://a:1, and https://b:2.", "http://c:3"])
def test_url_in_a_sentence_is_shown(text: str) -> None:
    assert bounded(fail(text, text)) == fail(text, text)


def test_password_in_front_of_a_colon_is_not_shown() -> None:
    assert bounded(fail("redis://a:secret@b: down", "redis://a:secret: down")) == fail(
        "redis://a:***@b: down", "redis://***: down"
    )


# Host


def test_missing_package_for_speed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    finding = found(host.checks(given()), "host.python")

    assert (finding.status, finding.remedy) == ("warn", "run `python -m pip install uvloop`")
    assert finding.found.endswith(", without uvloop: the service is slower")


def test_temporary_folder_without_rights_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        Path(folder).chmod(0o555)
        with ordinary_user():
            finding = found(host.checks(given()), "host.temporary")

    assert (finding.status, finding.remedy) == ("fail", "set TMPDIR to a folder that this user can write")


def test_audit_log_without_rights_is_found() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with ordinary_user():
            checks = settings_checks.checks(given(audit_log=f"{folder}/audit.log"))
            finding = found(checks, "settings.audit")

    assert finding.status == "fail"
    assert finding.found == f"{folder} is not writable to this user"


def test_certificate_that_is_not_valid_yet_is_found(tmp_path: Path) -> None:
    begin = datetime.now(UTC) + timedelta(days=1)
    issued = trustme.CA().issue_cert("127.0.0.1", not_before=begin, not_after=begin + timedelta(days=60))
    write_pair(tmp_path, issued.cert_chain_pems[0].bytes(), issued.private_key_pem.bytes())
    (finding,) = settings_checks.tls_findings(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))

    assert finding.status == "fail"
    assert "is valid only from" in finding.found


def test_certificate_for_clients_is_found(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "client")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=60))
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = builder.add_extension(usage, critical=False).sign(key, hashes.SHA256())
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_pair(tmp_path, certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(*form))
    (finding,) = settings_checks.tls_findings(str(tmp_path / "cert.pem"), str(tmp_path / "key.pem"))

    assert (finding.status, finding.remedy) == ("warn", "issue one for TLS servers (serverAuth)")


def write_pair(folder: Path, certificate: bytes, key: bytes) -> None:
    """Write the files of a certificate and its key."""
    (folder / "cert.pem").write_bytes(certificate)
    (folder / "key.pem").touch(0o600)
    (folder / "key.pem").write_bytes(key)


# The service


@contextmanager
def answering(replies: Mapping[str, tuple[int, object]]) -> Iterator[Settings]:
    """Answer like a service, with these statuses and bodies; yield the settings that name it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = replies[self.path]
            text = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield given(port=server.server_port)
        finally:
            server.shutdown()


def test_service_of_another_version_is_found() -> None:
    with answering({"/version": (200, {"name": "guidsvc", "version": "0.0.1"})}) as settings:
        finding = found(service.checks(settings), "service.address")

    assert finding.status == "warn"
    assert finding.found.startswith("guidsvc 0.0.1 answers at ")
    assert f"but {guidsvc.__version__} is installed here" in finding.found
    assert finding.remedy.startswith("restart the service")


def test_service_that_is_not_ready_is_found() -> None:
    problem = {"ready": False, "store": "down", "cache": "up", "status": 503}
    with answering({"/readyz": (503, problem)}) as settings:
        finding = found(service.checks(settings), "service.ready")

    assert (finding.status, finding.found) == ("fail", "not ready: store down, cache up")
    assert finding.remedy == "see the findings about that part, and the log of the service"


@pytest.mark.parametrize(
    ("setting", "report", "status", "text"),
    [
        (1, {"workers": 1}, "ok", "1 process serves"),
        (4, {"workers": 4}, "ok", "4 processes serve"),
        (4, {"workers": 5}, "ok", "5 processes serve"),
        (4, {"workers": 3}, "warn", "3 processes serve, but --workers is 4"),
        (2, {"workers": 1}, "warn", "1 process serves, but --workers is 2"),
        (1, {"workers": 64}, "warn", "64 processes serve on 8 cores, and slow each other down"),
        (64, {"workers": 64}, "ok", "64 processes serve"),
        (4, {}, "ok", "unknown"),
    ],
)
def test_missing_and_surplus_workers_are_found(
    monkeypatch: pytest.MonkeyPatch, setting: int, report: dict[str, int], status: str, text: str
) -> None:
    """`host.cores` has the warning about the setting itself."""
    monkeypatch.setattr(service, "cores", lambda: 8)
    with answering({"/readyz": (200, {"ready": True, "status": "ready", **report})}) as settings:
        finding = found(service.checks(settings.model_copy(update={"workers": setting})), "service.workers")

    assert (finding.status, finding.found.startswith(text)) == (status, True), finding


@pytest.mark.parametrize(
    ("limit", "count"), [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("9900000 100000", 8), ("", 8)]
)
def test_cores_are_at_most_those_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, count: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    (tmp_path / "cpu.max").write_text(f"{limit}\n")

    assert host.cores(tmp_path / "cpu.max") == count
    assert host.cores(tmp_path / "absent") == 8


@pytest.mark.parametrize(
    ("counts", "status", "text"),
    [
        ((0, 0, 0), "ok", "has not been observed yet"),
        ((99, 100, 100), "ok", "at most 0.01 s late"),
        ((50, 98, 100), "warn", "up to inf s late"),
        ((50, 99, 100), "warn", "up to 0.5 s late"),
    ],
)
def test_late_event_loop_is_found(counts: tuple[int, int, int], status: str, text: str) -> None:
    name = "guidsvc_event_loop_lag_seconds_bucket"
    lines = [f'{name}{{le="{bound}"}} {count}.0' for bound, count in zip(("0.01", "0.5", "+Inf"), counts, strict=True)]
    with answering({"/metrics": (200, "\n".join(lines))}) as settings:
        finding = found(service.checks(settings), "service.load")

    assert finding.status == status
    assert text in finding.found
    assert status == "ok" or "give the service more CPU" in finding.remedy


def test_service_on_any_port_has_no_address() -> None:
    assert service.checks(given(port=0)) == ()


def test_slow_response_names_the_limit_of_its_request() -> None:
    assert http_probe.reason(TimeLimitExceeded(60.0)) == "no complete response within 60 s"
    assert http_probe.reason(TimeoutError("timed out")) == "no response within 3 s"
