"""The interface between the request parser and its connection: the events that the parser reports."""

from typing import Protocol

from httptools import HttpRequestParser

from guidsvc.server.protocol.request import RawHeaders, RawRequest, RejectedRequest


class ParserCallbacks(Protocol):
    """The receiver of parser events."""

    def on_request_head(
        self, method: bytes, target: bytes, headers: RawHeaders, parser: HttpRequestParser
    ) -> RawRequest | None:
        """Handle a request head. Return the request, or None if it was answered already.

        An exception stops the parser and is passed to `on_protocol_error`.
        """

    def has_room(self) -> bool:
        """Whether the next request may be parsed; else its bytes wait for `RequestParser.resume`."""

    def resume_parsing_soon(self) -> None:
        """Call `RequestParser.resume` in the next turn of the event loop, and read nothing until then."""

    def on_body(self, message: RawRequest) -> None:
        """Handle a new part of a body."""

    def on_message_complete(self, message: RawRequest) -> None:
        """Handle the end of a request."""

    def on_protocol_error(self, rejected: RejectedRequest, broken: RawRequest | None) -> None:
        """Handle malformed input; `broken` is the request whose body it interrupted, if any."""
