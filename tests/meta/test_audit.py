"""The audit fails on known vulnerabilities, and does not count a missing answer as a clean result.

pip-audit queries a local server that speaks OSV's protocol, since OSV itself cannot be reached from everywhere.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.meta.audit import KNOWN_VULNERABLE_PIN, Audit, audit, report
from tests.meta.requirements import DEV, path, pinned
from tests.support.backing_servers import free_port

Vulnerabilities = Mapping[str, str]  # identifiers by release: {"tornado==6.6.1": "CVE-1"}


@contextmanager
def osv_server(vulnerabilities: Vulnerabilities) -> Iterator[tuple[str, ...]]:
    """Serve these vulnerabilities; yield the options that make pip-audit query this server."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            package = query["package"]
            identifier = vulnerabilities.get(f"{package['name']}=={query['version']}")
            reply = json.dumps(
                {"vulns": [{"id": identifier, "affected": [{"package": package}]}]} if identifier else {}
            ).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        try:
            yield osv_options(server.server_port)
        finally:
            server.shutdown()


def osv_options(port: int) -> tuple[str, ...]:
    """Return the options that make pip-audit query a server on this port."""
    return ("--vulnerability-service", "osv", "--osv-url", f"http://127.0.0.1:{port}/v1/query")


def write_requirements(folder: Path, pin: str) -> Path:
    """Write a requirements file that pins one release with a hash."""
    file = folder / "list.txt"
    file.write_text(f"{pin} --hash=sha256:{'0' * 64}\n")
    return file


def test_known_vulnerability_of_any_package_fails_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    relevant_pins = [f"{pin.name}{pin.need.specifier}" for pin in pinned(DEV) if pin.is_for_this_platform]
    vulnerabilities = {f"{pin.name}{pin.need.specifier}": "CVE-3" for pin in pinned(DEV)}
    with osv_server({KNOWN_VULNERABLE_PIN: "CVE-1"} | vulnerabilities) as options:
        audited = audit([path(DEV, ".txt")], {"ours": options})

    assert len(audited.vulnerabilities) == len(relevant_pins)
    assert report(audited) == 1
    printed = capsys.readouterr().out
    assert [pin for pin in relevant_pins if f"{pin.replace('==', ' ')}: CVE-3" not in printed] == []


def test_service_without_data_is_not_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with osv_server({}) as options:
        audited = audit([write_requirements(tmp_path, "motor==3.7.1")], {"ours": options})

    assert audited == Audit(None)
    assert report(audited) == 0
    assert capsys.readouterr().out.startswith("Not run: ")


def test_clean_result_of_a_capable_service_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A service that cannot be reached is followed by the next."""
    with osv_server({KNOWN_VULNERABLE_PIN: "CVE-1"}) as options:
        audited = audit(
            [write_requirements(tmp_path, "motor==3.7.1")], {"gone": osv_options(free_port()), "ours": options}
        )

    assert audited == Audit("ours")
    assert report(audited) == 0
    assert "ours knows of no vulnerabilities" in capsys.readouterr().out


def test_unknown_packages_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(Audit("ours", unknown_packages=("motor",))) == 0
    assert "does not know them: motor" in capsys.readouterr().out
