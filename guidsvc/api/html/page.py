"""The frame of every page, its headers, and the choice between JSON and a page.

Only clients that prefer HTML to JSON get pages. Browsers do; curl, which accepts anything, does not. The JSON of a
record has no `Vary: Accept`, which the fast path would have to send: caches must revalidate it anyway, by an entity tag
that matches no page.
"""

import re
from collections.abc import Iterable
from html import escape
from string import Template

from guidsvc.http.constants import JSON
from guidsvc.http.headers.negotiation import preferred
from guidsvc.http.hidden_characters import show_hidden

HTML = "text/html"
CONTENT_TYPE = f"{HTML}; charset=utf-8"
HEADERS = {
    "Content-Type": CONTENT_TYPE,
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
}
"""The headers of a page that shows data. It contains text of clients, so it may run no script at all."""
MAX_DEPTH = 8
MAY_PREFER_HTML = re.compile(rb"text/(?:html|\*)", re.IGNORECASE)
"""Found in the Accept header of every client that may prefer HTML to JSON."""

_FRAME = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="${root}docs/page.css">
</head>
<body>
<main class="$style">
<h1>$title</h1>
$content
<nav><a href="$home">guidsvc</a> <a href="${root}guid">GUIDs</a> <a href="${root}docs">API documentation</a></nav>
</main>
</body>
</html>
""")


def prefers_html(accept: str | None, *other_types: str) -> bool:
    """Whether the Accept header names HTML, or text, and prefers it to JSON and to these other types."""
    if accept is None or MAY_PREFER_HTML.search(accept.encode("latin-1", "replace")) is None:
        return False
    return preferred(accept, (JSON, *other_types, HTML)) == HTML


def root_of(path: str) -> str:
    """Return the relative URL of the root of the service on the page at this path: a proxy may add a prefix.

    No path that is served has more than MAX_DEPTH parts; a page that reports an unknown path must not grow with it.
    """
    depth = path.count("/") - 1
    return "../" * depth if depth < MAX_DEPTH else "/"


def render(title: str, path: str, content: str, *, is_text: bool = False) -> bytes:
    """Render the page at a path; `content` is HTML. The lines of a text are shorter than those of data."""
    root, style = root_of(path), "page text" if is_text else "page"
    return _FRAME.substitute(title=escape(title), root=root, home=root or "./", style=style, content=content).encode()


def definition_list(items: Iterable[tuple[str, str]]) -> str:
    """Return a list of terms, which are text, and their values, which are HTML."""
    lines = (f"<dt>{escape(term)}</dt><dd>{value}</dd>\n" for term, value in items)
    return f"<dl>\n{''.join(lines)}</dl>"


def code_block(text: str) -> str:
    """Return a block of code; `text` is not HTML."""
    return f"<pre><code>{visible(text)}</code></pre>\n"


def visible(text: str) -> str:
    """Return a text of a client as HTML: it can neither be markup, nor hide or reorder text."""
    return escape(show_hidden(text))


def isolated(text: str) -> str:
    """Return a text of a client as HTML, isolated so that its writing direction does not affect adjacent text."""
    return f"<bdi>{visible(text)}</bdi>"
