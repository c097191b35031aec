"""The page at `/`: a description of the service, links, and a command to try."""

import shlex
from collections.abc import Mapping
from html import escape

import guidsvc
from guidsvc.api.html import page
from guidsvc.domain.record import EXAMPLE

_ABOUT = {
    "console": "the console, where you find, create and change GUIDs",
    "docs": "the API documentation, where you can send requests",
    "openapi": "the same as an OpenAPI document, for generators of clients",
    "llms": "a short description for language models",
    "guid": "the GUIDs in this registry",
    "events": "what happened to them, as JSON",
    "problems": "the kinds of errors, and what to do about each",
    "readyz": "whether the service is ready",
    "livez": "whether the process runs",
    "stats": "how many GUIDs there are, and when they expire",
    "metrics": "metrics for Prometheus",
    "version": "the version",
}


def index_page(links: Mapping[str, str], base_url: str, *, has_access_control: bool) -> bytes:
    """Render the page; `links` are the paths by name, `base_url` is the address of the service."""
    title = f"guidsvc {guidsvc.__version__}"
    items = (
        (path, f'<a href="{escape(path[1:])}">{escape(_ABOUT.get(name, name))}</a>') for name, path in _sorted(links)
    )
    content = (
        "<p>A registry of GUIDs that expire. Programs use it as a JSON API; browsers get the same data as pages.</p>\n"
        f"<h2>Try it</h2>\n{page.code_block(_command(base_url, has_access_control=has_access_control))}"
        f"<h2>Where to go</h2>\n{page.definition_list(items)}"
    )
    return page.render(title, "/", content)


def _sorted(links: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the links, in the order in which a newcomer needs them."""
    order = list(_ABOUT)
    return sorted(links.items(), key=lambda link: order.index(link[0]) if link[0] in order else len(order))


def _command(base_url: str, *, has_access_control: bool) -> str:
    key = "-H 'Authorization: Bearer gs_...' " if has_access_control else ""
    body = f'{{"user": "{EXAMPLE["user"]}"}}'
    return f"curl -X PUT {key}-d {shlex.quote(body)} {shlex.quote(f'{base_url}/guid')}"
