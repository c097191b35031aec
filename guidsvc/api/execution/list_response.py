"""A page of the list of records as JSON. Both the handler and the fast path render it here."""

from collections.abc import Mapping, Sequence
from http.client import OK
from typing import NamedTuple

from pydantic_core import to_json

from guidsvc.api.parsing.query import link_to_next
from guidsvc.auth.session import Session
from guidsvc.domain.caller import ADMIN
from guidsvc.domain.commands import ListQuery
from guidsvc.domain.commands.list_parameters import render_cursor
from guidsvc.domain.record import Record, render_bodies
from guidsvc.errors import Forbidden, InvalidField, InvalidRequest
from guidsvc.http.headers import prefer as preferences
from guidsvc.http.response import Response
from guidsvc.services.guid_service import GuidService

CACHE_CONTROL, VARY = "private, no-cache", "Accept, Prefer"
"""Headers of every response that has records."""
TOTAL = "total-count"


class ListRequest(NamedTuple):
    """A request for a list: the target, the headers, and the queue of the caller."""

    path: str
    query_arguments: Mapping[str, Sequence[bytes]]
    headers: Mapping[str, str]
    queue_name: str


def check_query(query: ListQuery, session: Session | None) -> None:
    """Reject the owner of another caller if the caller is no admin, and a cursor of a list in another order."""
    check_owner(query.owner, session)
    if query.cursor is not None and query.cursor.order != query.sort:
        detail = f"is of a list with sort={query.cursor.order}; send the same parameters as for the first page"
        raise InvalidRequest(InvalidField("", detail, parameter="cursor"))


def check_owner(owner: str | None, session: Session | None) -> None:
    """Reject the owner that a query names if it is not the caller's own, and the caller is no admin."""
    if session is not None and owner not in {None, session.caller.owner}:
        try:
            session.require_scope(ADMIN)
        except Forbidden as error:
            detail = f"`owner` names another owner than your own; leave it out to select what is yours. {error}"
            raise Forbidden(error.scope, detail) from error


def render_records(service: GuidService, query: ListQuery, records: Sequence[Record]) -> list[bytes]:
    """Return records as JSON, in full with `view=full`."""
    if query.view is None:
        return render_bodies(records)
    return [service.full(record) for record in records]


def prefers_total(headers: Mapping[str, str]) -> bool:
    """Whether a client requests the number of all matching records."""
    return preferences.parse(headers.get("Prefer")).get("return") == TOTAL


async def find(service: GuidService, request: ListRequest, query: ListQuery) -> Response:
    """Return a page, with the headers that depend on it."""
    has_total = prefers_total(request.headers)
    # Before the page: none of its records may expire while the service counts.
    total = await service.count(query, request.queue_name) if has_total else 0
    page = await service.find(query, request.queue_name)
    cursor = None if page.next is None else render_cursor(page.next)
    headers = {} if cursor is None else {"Link": link_to_next(request, cursor)}
    end = b'],"next":%b}' % to_json(cursor)
    if has_total:
        headers["Preference-Applied"] = f"return={TOTAL}"
        end = b'%b,"total":%d}' % (end[:-1], total)
    return Response(OK, headers, b'{"items":[%b%b' % (b",".join(render_records(service, query, page.records)), end))
