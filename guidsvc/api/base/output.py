"""Writing of responses: whole, idempotent, or streamed."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from http.client import NOT_FOUND, NOT_MODIFIED

from pydantic_core import to_json
from tornado.iostream import StreamClosedError

from guidsvc.api.base.input import InputHandler
from guidsvc.api.contract.headers import REPLAYED
from guidsvc.api.execution.idempotent_work import PartedWork, Work, execute_once
from guidsvc.api.execution.responses import NO_STORE
from guidsvc.api.html import page
from guidsvc.api.parsing.idempotency_key import parse as parse_key
from guidsvc.http.headers.diagnostics import source_of
from guidsvc.http.response import Response
from guidsvc.telemetry.tracing import RequestTrace


class OutputHandler(InputHandler):
    """A handler that writes its response."""

    trace: RequestTrace
    is_creation = False
    """Whether a request with an Idempotency-Key creates one record under a generated GUID, and does nothing else."""
    _is_last = False  # the connection closes after the response
    _streaming: asyncio.Task[None] | None = None  # cancelled when the client disconnects

    def respond(self, status: int, content: bytes | Mapping[str, object] | None = None) -> None:
        """Finish the request with a status and an optional JSON body, followed by a newline for terminals."""
        self.set_status(status)
        if content is not None:
            self.write((content if isinstance(content, bytes) else to_json(content)) + b"\n")
        self.finish()

    def prefers_page(self, *other_types: str) -> bool:
        """Whether the client wants a page: it requests content, and prefers HTML to JSON and to these other types."""
        headers = self.request.headers
        return self.request.method in {"GET", "HEAD"} and page.prefers_html(headers.get("Accept"), *other_types)

    def respond_page(self, content: bytes) -> None:
        """Finish the request with a page that shows data. Nothing may store it, and it has no entity tag."""
        for name, value in page.HEADERS.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", NO_STORE)
        if "Accept" not in self._headers.get("Vary", "").split(", "):
            self.vary("Accept")
        self.finish(content)

    def send(self, response: Response) -> None:
        """Finish the request with a response."""
        for name, value in response.headers.items():
            if name == "Vary":
                self.vary(value)
            else:
                self.set_header(name, value)
        if response.body is None and response.status != NOT_MODIFIED:
            self.clear_header("Content-Type")
        self.respond(response.status, response.body)

    async def send_idempotent(
        self,
        work: Work,
        *,
        repeatable: bool = True,
        parted: PartedWork | None = None,
        show: Callable[[Response], Awaitable[Response]] | None = None,
        needs_receipt: bool = True,
    ) -> None:
        """Finish the request with the response of `work`, or with the stored one if its key was used before.

        A request that needs no receipt accepts a key and ignores it. `show` makes the response to the client from what
        is stored, also if that is new.
        """
        content = f"{self.request.method} {self.request.uri}", bytes(self._received), self.request.headers.get_list
        request = parse_key(*content, caller=self.caller, queue_name=self.queue_name, repeatable=repeatable)
        if request is None or not needs_receipt:
            self.send(await work(None))
            return
        request = request._replace(is_creation=self.is_creation)
        response, is_replayed = await execute_once(self.context.idempotency, request, work, parted)
        if is_replayed:
            self.set_header(REPLAYED.name, "true")
        self.send(response if show is None else await show(response))

    async def stream(self, parts: AsyncGenerator[bytes], *, is_done: bool = False) -> None:
        """Finish the request with these parts, at the client's pace; stop if the client disconnects.

        Each part needs an admission slot, and a session that has not ended when the part is sent. If the work
        `is_done`, parts need neither: an error would deny what was done.

        The head goes out with the first part, so an earlier error becomes a problem document. A HEAD takes no part.
        """
        if self.request.version == "HTTP/1.0":  # which has no other way to end a stream
            self.close_after()
        self.add_extra_headers()
        if self.request.method == "HEAD":
            with suppress(StreamClosedError):  # on_connection_close handles it
                await self.flush()
                self.finish()
            return
        self._streaming = asyncio.current_task()
        is_first = True
        async with aclosing(parts):
            while True:
                if is_done:
                    await asyncio.sleep(0)  # else nothing waits while the client reads fast
                    part = await anext(parts, None)
                else:
                    async with self.slot(patient=not is_first):
                        part = await anext(parts, None)
                        await self.confirm()  # last, as a part may wait for its slot and for the store
                is_first = False
                if part is None:
                    break
                self.write(part)
                del part  # the connection keeps it until it is sent
                try:
                    await self.flush_part()
                except StreamClosedError:  # on_connection_close handles it
                    return
        self._streaming = None
        self.finish()

    def close_after(self) -> None:
        """Close the connection after the response, and say so in its head."""
        self._is_last = True
        self.set_header("Connection", "close")
        self.request.headers.pop("Connection", None)  # else Tornado's server would promise HTTP/1.0 to keep it alive

    async def flush_part(self) -> None:
        """Send the part of a stream that was written; return once the client has read enough."""
        await self.flush()

    def vary(self, names: str) -> None:
        """Add request headers to Vary, in addition to those of every response."""
        present = self._headers.get("Vary")
        self.set_header("Vary", names if present is None else f"{names}, {present}")

    @property
    def source(self) -> str | None:
        """The source of the record of a read, or None."""
        return source_of(str(self.request.method), self.get_status(), self.trace)

    def add_extra_headers(self) -> None:
        """Add the rate limit headers, and the diagnostic headers if enabled."""
        if self._headers_written:
            return
        self.trace.is_opaque |= self.get_status() == NOT_FOUND
        seconds = max(0.0, self.request.request_time())
        for line in self.pipeline.extra_header_lines(self.session, self.source, self.trace, seconds).splitlines():
            self.set_header(*line.decode().split(": ", 1))
