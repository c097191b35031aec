"""The pages of a record and of a list of records. They show the members that the JSON has, and dates for its times."""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from pydantic_core import from_json

from guidsvc.api.html import page
from guidsvc.domain.record import Record
from guidsvc.http.hidden_characters import hidden_count
from guidsvc.utf8 import utf8_bytes

_SECONDS, _MILLISECONDS = {"expire", "purge_at", "renew_at", "max_expire"}, {"created", "updated"}
_METADATA, _FULL_ONLY = "metadata", "created"
"""The member whose text is JSON, and one that only the full view has."""
_STATES = ("live", "expired", "all")

MAX_LIST_BYTES = 1024 * 1024
"""Maximum size of the records on the page of a list: escaping can make their text six times as long."""

HIDDEN_BYTES = 24
"""Size that a hidden character counts in addition. It takes as long to render as this many others."""

MAX_LIST_RECORDS = 100
"""Maximum number of records on the page of a list. 500 would keep the event loop busy for 10 milliseconds."""

RenderedRecord = tuple[Record, bytes]
"""A record, and its JSON."""
QueryWith = Callable[..., str]
"""Returns the query of the page with these parameters set, and without those that are None."""


def record_page(rendered: RenderedRecord, path: str, query_with: QueryWith) -> bytes:
    """Render the page of a record."""
    (record, _), members = rendered, _members(rendered)
    items = ((name, _value(name, value)) for name, value in members.items())
    views = _views(query_with, is_full=_FULL_ONLY in members)
    return page.render(f"GUID {record.guid}", path, f"{page.definition_list(items)}\n{views}")


def _views(query_with: QueryWith, *, is_full: bool) -> str:
    """Return the links to both views of a record; one of them is the current view."""
    brief = _choice(query_with(view=None), "those that you can set", is_current=not is_full)
    return f"<p>Members: {brief}, {_choice(query_with(view='full'), 'all', is_current=is_full)}</p>"


def list_page(
    records: Sequence[RenderedRecord], path: str, next_url: str | None, query_with: QueryWith, *, state: str
) -> bytes:
    """Render a page of a list of records in a state; `next_url` is the absolute path and query of the next page."""
    root = page.root_of(path)
    more = "" if next_url is None else f'<p><a rel="next" href="{root}{escape(next_url[1:])}">Next page</a></p>\n'
    queries = {each: query_with(state=each, cursor=None) for each in _STATES}
    states = ", ".join(_choice(query, each, is_current=each == state) for each, query in queries.items())
    content = f"<p>State: {states}</p>\n{_table([_members(each) for each in records], root)}\n{more}"
    return page.render("GUIDs", path, content)


def _choice(query: str, text: str, *, is_current: bool) -> str:
    """Return a link to one of several forms of a page, by its query; the current form is marked."""
    current = ' aria-current="page"' if is_current else ""
    return f'<a href="?{escape(query)}"{current}>{text}</a>'


def fitting(records: Sequence[RenderedRecord]) -> Sequence[RenderedRecord]:
    """Return as many of the first records as fit on the page of a list, but at least one."""
    size_bytes = 0
    records = records[:MAX_LIST_RECORDS]
    for place, (_, json_text) in enumerate(records):
        text = json_text.decode()
        size_bytes += utf8_bytes(escape(text)) + HIDDEN_BYTES * hidden_count(text)
        if size_bytes > MAX_LIST_BYTES and place:
            return records[:place]
    return records


def _table(rows: list[dict[str, Any]], root: str) -> str:
    """Return a table. On a narrow screen its rows are stacked, for which it needs the names, and the roles of cells."""
    if not rows:
        return "<p>No GUID matches.</p>"
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f'<th scope="col" role="columnheader">{escape(name)}</th>' for name in names)
    body = "".join(f'<tr role="row">{_cells(row, names, root)}</tr>\n' for row in rows)
    return (
        '<div class="scroll" role="region" aria-label="Records" tabindex="0">\n<table role="table">\n'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n<tbody role="rowgroup">\n{body}</tbody>\n'
        "</table>\n</div>"
    )


def _cells(row: dict[str, Any], names: Iterable[str], root: str) -> str:
    guid = row["guid"]
    link = f'<th scope="row" role="rowheader"><a href="{root}guid/{guid}">{guid}</a></th>'
    return link + "".join(
        f'<td role="cell" data-name="{escape(name)}">{_value(name, row[name]) if name in row else ""}</td>'
        for name in names
        if name != "guid"
    )


def _members(rendered: RenderedRecord) -> dict[str, Any]:
    """Return the members of a record, with the text of its metadata, which must not be altered by parsing it."""
    record, json_text = rendered
    members: dict[str, Any] = from_json(json_text)
    return members if record.metadata is None else members | {_METADATA: record.metadata}


def _value(name: str, value: str | None) -> str:
    if not value:
        return "none"
    if name in _SECONDS | _MILLISECONDS:
        seconds = int(value) if name in _SECONDS else int(value) // 1000
        date = datetime.fromtimestamp(seconds, UTC)
        return f'{value} <time datetime="{date:%Y-%m-%dT%H:%M:%SZ}">({date:%Y-%m-%d %H:%M:%S} UTC)</time>'
    if name == "guid":
        return f"<code>{value}</code>"
    return f"<code>{page.isolated(value)}</code>" if name == _METADATA else page.isolated(value)
