"""Reading of requests: the buffered body, the query and the preconditions."""

from collections.abc import Awaitable
from typing import TypeVar

from pydantic import BaseModel

from guidsvc.api.base.authentication import AuthenticatedHandler
from guidsvc.api.parsing import body, query
from guidsvc.api.parsing import conditional as conditions
from guidsvc.domain.preconditions import Conditions
from guidsvc.http import constants
from guidsvc.http.errors import TooLarge
from guidsvc.http.headers import prefer as preferences
from guidsvc.server.protocol.read_throttle import DISCARD_BYTES

_Model = TypeVar("_Model", bound=BaseModel)


class InputHandler(AuthenticatedHandler):
    """A handler that buffers the body, and checks it when it is read."""

    max_bytes = body.MAX_BYTES
    """Maximum size of a body. A larger one is read and discarded up to DISCARD_BYTES."""
    _received: bytearray
    _received_bytes = 0

    def check_declared_size(self) -> None:
        """Raise TooLarge if Content-Length announces more than is read."""
        # The server rejects one that is not a number; zeros at its beginning count for nothing.
        declared = self.request.headers.get("Content-Length", "").lstrip("0")
        expects_continue = self.request.headers.get("Expect", "").lower() == "100-continue"
        max_bytes = self.max_bytes if expects_continue else max(DISCARD_BYTES, self.max_bytes)
        if declared.isdecimal() and (len(declared) > len(str(max_bytes)) or int(declared) > max_bytes):
            raise self._too_large()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._received_bytes += len(chunk)
        if self._received_bytes <= self.max_bytes:
            self._received += chunk
        elif self._received_bytes > DISCARD_BYTES and not self._finished:
            self.send_error(exc_info=(TooLarge, self._too_large(), None))
        return None

    @property
    def has_large_body(self) -> bool:
        """Whether decoding the body takes a turn."""
        return self._received_bytes > body.SMALL_BYTES

    def read_query(self, model: type[_Model]) -> _Model:
        """Return the query parameters as a model."""
        return query.parse(self.request.query_arguments, model, str(self.request.method))

    def read_conditions(self) -> Conditions:
        """Return the preconditions of the request."""
        return conditions.parse(self.request.headers)

    async def read_body(self, model: type[_Model], media_types: tuple[str, ...] = (constants.JSON,)) -> _Model:
        """Return the JSON body as a model, for paths without a GUID. A large body waits for its turn."""
        if self.has_large_body:
            await self.pipeline.readers.take_turn(self.queue_name)
        return body.read(str(self.request.method), self.request.headers, self.received, model, media_types, None)

    def check_type(self, *media_types: str) -> None:
        """Reject a body whose media type is not one of these."""
        headers = self.request.headers
        content_type, encoding = headers.get("Content-Type"), headers.get("Content-Encoding")
        body.check_type(str(self.request.method), content_type, encoding, media_types)

    def received(self) -> bytes:
        """Return the raw body. Raise TooLarge if it exceeds `max_bytes`."""
        if self._received_bytes > self.max_bytes:
            raise self._too_large()
        return bytes(self._received)

    def preferences(self) -> dict[str, str]:
        """Return the client's preferences (Prefer) by name."""
        return preferences.parse(self.request.headers.get("Prefer"))

    def _too_large(self) -> TooLarge:
        return TooLarge(f"A body is at most {self.max_bytes} bytes.")
