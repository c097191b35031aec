"""Files named by settings: irregular or oversized ones are rejected in one line, without waiting."""

import os
import re
from pathlib import Path

import pytest

from guidsvc.bounded_file import MAX_BYTES, read_file
from guidsvc.errors import StartError
from guidsvc.server.tls import open_tls
from tests.support.backing_servers import ROOT, pdapt
from tests.support.certificates import Certificate

UNREADABLE = {
    "a FIFO": "not a regular file but a pipe or a device; name a regular file",
    "an endless device": "not a regular file but a pipe or a device; name a regular file",
    "a folder": "Is a directory",
    "a large file": f"the file is larger than {MAX_BYTES} bytes; name another file",
}


def make(kind: str, path: Path) -> Path:
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "an endless device":
            path.symlink_to("/dev/zero")
        case "a folder":
            path.mkdir()
        case _:
            path.write_bytes(b"#" * (MAX_BYTES + 1))
    return path


def start_error(folder: Path, **environment: str) -> str:
    """Start the service, which must fail; return its error line."""
    result = pdapt(folder, "--port", "0", **environment)
    assert (result.returncode, result.stdout) == (2, ""), result
    (line,) = result.stderr.splitlines()
    return line.removeprefix("pdapt.py: ")


@pytest.mark.parametrize(("kind", "reason"), UNREADABLE.items())
def test_missing_or_oversized_file_is_not_read(tmp_path: Path, kind: str, reason: str) -> None:
    with pytest.raises(OSError, match=re.escape(reason)):
        read_file(make(kind, tmp_path / "file"))


def test_file_at_the_size_limit_is_read_and_links_are_followed(tmp_path: Path) -> None:
    """Container secrets are links."""
    (tmp_path / "file").write_bytes(b"x" * MAX_BYTES)
    (tmp_path / "link").symlink_to("file")
    assert len(read_file(tmp_path / "link")) == MAX_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a FIFO", "an endless device"])
def test_unusable_file_setting_stops_the_start_with_its_name(tmp_path: Path, kind: str) -> None:
    path = make(kind, tmp_path / "file")
    tokens = {"GUIDSVC_ACCESS": "keys", "GUIDSVC_JWT_ISSUER": "a", "GUIDSVC_JWT_AUDIENCE": "a"}
    key = Certificate(tmp_path).flags[3]
    settings: dict[str, dict[str, str]] = {
        "GUIDSVC_STORE_URL_FILE": {"GUIDSVC_STORE_URL_FILE": str(path)},
        f"GUIDSVC_TLS_CERT, GUIDSVC_TLS_KEY: {path}": {"GUIDSVC_TLS_CERT": str(path), "GUIDSVC_TLS_KEY": key},
        "GUIDSVC_JWT_JWKS": tokens | {"GUIDSVC_JWT_JWKS": str(path)},
        "GUIDSVC_STORE_URL: tlsCAFile": {"GUIDSVC_STORE_URL": f"mongodb://127.0.0.1:1/?tls=true&tlsCAFile={path}"},
        "GUIDSVC_CACHE_URL: ssl_ca_certs": {"GUIDSVC_CACHE_URL": f"rediss://127.0.0.1:1/0?ssl_ca_certs={path}"},
    }
    for name, environment in settings.items():
        line = start_error(tmp_path, **environment)
        assert line.startswith(f"{name}: "), line
        assert UNREADABLE[kind] in line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a FIFO", "an endless device"])
@pytest.mark.parametrize("arguments", [[], ["keys", "list"], ["backup", "copy.db"], ["healthcheck"]])
def test_invalid_dotenv_stops_every_command(tmp_path: Path, arguments: list[str], kind: str) -> None:
    make(kind, tmp_path / ".env")
    result = pdapt(tmp_path, *arguments)
    assert (result.returncode, result.stderr) == (2, f"pdapt.py: .env: {UNREADABLE[kind]}\n")
    result = pdapt(tmp_path, *arguments, "--help")
    assert result.returncode == 0


def test_irregular_certificate_is_not_waited_for_on_reload(tmp_path: Path, certificate: Certificate) -> None:
    tls = open_tls(certificate.flags[1], certificate.flags[3])
    assert tls is not None
    Path(certificate.flags[1]).unlink()
    os.mkfifo(certificate.flags[1])
    with pytest.raises(StartError, match="not a regular file but a pipe or a device"):
        tls.reload()


def test_other_modules_read_no_file_named_by_settings() -> None:
    """Add a new place that reads a file to this list, with the reason why it needs no bound."""
    reads = re.compile(r"\.(read_text|read_bytes)\(|\.open\(\"r|\bopen\(\w+, \"r|load_(cert_chain|verify_locations)\(")
    reasons = {
        "cache/redis/lua_scripts.py": "a part of the package",
        "api/console/console_handlers.py": "a part of the package",
        "api/docs/static_pages.py": "a part of the package",
        "cli/remote/commands/editing.py": "bounded, with a text of its own",
        "cli/remote/transfer/importing.py": "read in chunks of bounded size",
        "cli/local/container.py": "/proc",
        "doctor/backends/sqlite.py": "/proc",
        "doctor/certificates.py": "read by `read_file` before",
        "doctor/http_probe.py": "read by `read_file` before",
        "runtime/memory.py": "/proc",
        "monitoring/metric_files.py": "judged by lstat before",
        "store/sqlite/parts.py": "judged by lstat before",
        "store/sqlite/recovery/cut_log.py": "read in chunks of bounded size",
        "server/tls.py": "read by `read_file` before",
    }
    root = ROOT / "guidsvc"
    readers = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if reads.search(path.read_text())}
    assert readers == set(reasons)
