"""A page of the list of records as JSON, without a handler: the query string is plain, and the client wants JSON."""

import re

from tornado.escape import parse_qs_bytes

from guidsvc.api.execution import list_response
from guidsvc.api.execution.guid_actions import COLLECTION_ROUTE
from guidsvc.api.execution.list_response import ListRequest
from guidsvc.api.execution.pipeline import RequestPipeline, queue_name
from guidsvc.api.fast_path.direct_request import DirectRequest, EligibleRequest
from guidsvc.api.fast_path.load_shedding import LoadShedder
from guidsvc.api.parsing import query
from guidsvc.domain.caller import ANYONE
from guidsvc.domain.commands import ListQuery
from guidsvc.http.constants import JSON, NDJSON
from guidsvc.http.headers.negotiation import preferred
from guidsvc.http.response import Response
from guidsvc.server.protocol.request import RawHeaders

_TARGET = re.compile(rb"/guid(?:\?([A-Za-z0-9_.~=&%+:-]*))?")


def query_of(target: bytes) -> bytes | None:
    """Return the query string of a list, or None if the target is none, or needs a handler."""
    match = _TARGET.fullmatch(target)
    if match is None or target.count(b"&") >= query.MAX_PARAMETERS:
        return None
    return match[1] or b""


def wants_json(raw_headers: RawHeaders) -> bool:
    """Whether the client prefers JSON to lines; it must not prefer HTML. Several Accept headers need a handler."""
    accept = [value for name, value in raw_headers if name.lower() == b"accept"]
    return not accept or (len(accept) == 1 and preferred(accept[0].decode("latin-1"), (JSON, NDJSON)) == JSON)


class DirectList(DirectRequest):
    """A fast-path request for a page, until it is answered."""

    __slots__ = ("_query_string",)
    route = COLLECTION_ROUTE

    def __init__(
        self, pipeline: RequestPipeline, shedder: LoadShedder, request: EligibleRequest, query_string: bytes
    ) -> None:
        super().__init__(pipeline, shedder, request)
        self._query_string = query_string

    async def _execute(self, body: bytes) -> Response:  # noqa: ARG002  # a list has none
        pipeline, request = self._pipeline, self._request
        pipeline.require_open()
        caller = await self._authenticate() if pipeline.is_access_controlled else ANYONE
        name = queue_name(self._session, request.address)
        arguments = parse_qs_bytes(self._query_string, keep_blank_values=True)
        list_query = query.parse(arguments, ListQuery, request.method)
        list_response.check_query(list_query, self._session)
        list_request = ListRequest(request.path, arguments, request.headers, name)
        service = pipeline.context.service.acting_for(caller)
        slots = service.list_slots(list_query, has_total=list_response.prefers_total(request.headers))
        async with pipeline.list_slot(self._cancel_scope, name, slots):
            response = await list_response.find(service, list_request, list_query)
            await pipeline.confirm(self._session)  # last, as a page may wait for its turn and for the store
        return response._replace(
            headers={"Cache-Control": list_response.CACHE_CONTROL, "Vary": list_response.VARY, **response.headers}
        )
