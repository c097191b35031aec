"""The examples of deploy/proxies, run in front of the service, each with the ports and the certificate of a test."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.backing_servers import ROOT, Server, free_port, running
from tests.support.certificates import Certificate
from tests.support.optional_program import find

EXAMPLES = ROOT / "deploy" / "proxies"
HOST = "registry.example"
SERVICE = "127.0.0.1:8888"
"""The address of the service in the examples."""
FILES = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg", "caddy": "Caddyfile"}

_NGINX = """
{user}
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/guidsvc.conf;
}}
"""
_CADDY = "{\n\tadmin off\n\tauto_https off\n"


def text_of(name: str) -> str:
    """Return the example for a program."""
    return (EXAMPLES / FILES[name]).read_text()


@contextmanager
def reverse_proxy(name: str, folder: Path, service_port: int, certificate: Certificate) -> Iterator[Server | None]:
    """Run a program with its example inside the block; yield None if the program is not installed."""
    program = find(name)
    if program is None:
        yield None
        return
    port = free_port()
    folder.mkdir()
    command = [program, *_WRITERS[name](folder, port, f"127.0.0.1:{service_port}", certificate)]
    with running(command, port, folder) as server:
        yield server


def _nginx(folder: Path, port: int, service: str, certificate: Certificate) -> list[str]:
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        f"/etc/ssl/{HOST}/fullchain.pem": str(certificate.cert),
        f"/etc/ssl/{HOST}/privkey.pem": str(certificate.key),
        f"server {SERVICE} ": f"server {service} ",
    }
    (folder / "guidsvc.conf").write_text(changed(text_of("nginx"), changes))
    user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(_NGINX.format(user=user, folder=folder))
    return ["-c", str(folder / "nginx.conf"), "-p", str(folder)]


def _haproxy(folder: Path, port: int, service: str, certificate: Certificate) -> list[str]:
    bundle = folder / "both.pem"
    bundle.touch(0o600)
    bundle.write_bytes(certificate.cert.read_bytes() + certificate.key.read_bytes())
    changes = {
        f"bind :443 ssl crt /etc/haproxy/{HOST}.pem": f"bind 127.0.0.1:{port} ssl crt {bundle}",
        f"server guidsvc1 {SERVICE}\n": f"server guidsvc1 {service}\n",
    }
    (folder / "haproxy.cfg").write_text(changed(text_of("haproxy"), changes))
    return ["-db", "-f", str(folder / "haproxy.cfg")]


def _caddy(folder: Path, port: int, service: str, certificate: Certificate) -> list[str]:
    site = f"https://127.0.0.1:{port}, https://{HOST}:{port} {{\n\ttls {certificate.cert} {certificate.key}\n"
    changes = {
        "\n{\n": f"\n{_CADDY}",
        f"\n{HOST} {{\n": f"\n{site}",
        f"reverse_proxy {SERVICE} ": f"reverse_proxy {service} ",
    }
    (folder / "Caddyfile").write_text(changed(text_of("caddy"), changes))
    return ["run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


_WRITERS = {"nginx": _nginx, "haproxy": _haproxy, "caddy": _caddy}


def changed(text: str, changes: Mapping[str, str]) -> str:
    """Replace each text, which must occur once."""
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text
