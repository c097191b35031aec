"""Incremental HTTP/1.1 parser, based on llhttp, the parser of Node.js.

It emits complete request heads, body chunks, and protocol errors. It neither sends nor waits.
"""

from typing import Protocol

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from guidsvc.http.errors import HeadersTooLarge
from guidsvc.http.headers.recognized import MAX_HEADERS
from guidsvc.server.protocol.request import (
    PART,
    RawHeaders,
    RawRequest,
    check_version,
    fault_of,
    is_token,
    not_http,
    size_of,
)

CHUNK_OVERHEAD = 16
"""Maximum framing bytes per byte of a chunked body, in addition to the limit of a head."""

HEAD_SLICE_BYTES, CHUNKED_SLICE_BYTES = 1024, 4096
"""Bytes parsed at once. The parser cannot pause, so they bound the requests that begin between checks of `has_room`."""

CHUNKED_SLICES = 4
"""Slices of a chunked body parsed in one turn of the event loop: each chunk costs, and a slice may hold hundreds."""

_BLANKS = b" \t"
"""Whitespace around a header value is not part of it (RFC 9112, 5); llhttp keeps the trailing whitespace."""

_STAND_IN = b"SOURCE"
"""A method that llhttp knows and that no route serves."""
_OTHER_PROTOCOL = "Invalid method for HTTP/"
"""The start of llhttp's error for a method of RTSP, which it knows, in an HTTP request."""


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

    def on_protocol_error(self, error: Exception, broken: RawRequest | None) -> None:
        """Handle malformed input; `broken` is the request whose body it interrupted, if any."""


class RequestParser:
    """The parser of one connection; it rejects heads of more than `most` bytes."""

    __slots__ = (
        "_error",
        "_fed",
        "_has_body",
        "_headers",
        "_method",
        "_most",
        "_parser",
        "_place",
        "_reading",
        "_rest",
        "_resuming",
        "_sink",
        "_skipping",
        "_target",
        "begun",
        "between",
        "message",
        "over",
    )

    def __init__(self, sink: ParserCallbacks, most: int) -> None:
        self._sink = sink
        self._most = most
        self._parser = self._new_parser()
        self._rest, self._place = b"", 0  # received bytes, and the offset of the first unparsed one
        self._reading = False  # `resume` is running; parser callbacks may call it again
        self._target = b""
        self._headers: RawHeaders = []
        self._method: bytes | None = None  # the real method, if the parser got the stand-in
        self._fed = 0  # bytes received since the request began
        self._skipping = False  # llhttp reports an upgrade request as complete before its body
        self._resuming = False  # a new parser is being set to the state of the last one
        self._has_body = False  # a part of the body of `message` was not reported yet
        self._error: Exception | None = None  # why the parser was stopped
        self.begun = 0
        """Number of requests begun."""
        self.between = True
        """Whether no part of a next request has arrived."""
        self.message: RawRequest | None = None
        """The request whose body is being read."""
        self.over = False
        """Whether parsing has ended."""

    def feed(self, data: bytes) -> None:
        """Parse received data while `has_room`; buffer the rest."""
        if self._rest or self.over or len(data) > HEAD_SLICE_BYTES or not self._sink.has_room():
            self._rest, self._place = self._rest[self._place :] + data, 0
            self.resume()
            return
        while data and not self.over:
            data = self._parse(data)

    def resume(self) -> None:
        """Parse buffered data while `has_room`."""
        if self._reading:  # called back from the loop below, which continues
            return
        self._reading = True
        chunked_slices = 0
        try:
            while self._place < len(self._rest) and not self.over and self._sink.has_room():
                if chunked_slices == CHUNKED_SLICES:
                    self._sink.resume_parsing_soon()
                    break
                chunked_slices += self.message is not None and self.message.length is None
                self._read_slice()
        finally:
            self._reading = False
        if self.over or self._place == len(self._rest):
            self._rest, self._place = b"", 0
        elif self._place > len(self._rest) // 2:  # free parsed bytes; only past half, to copy little
            self._rest, self._place = self._rest[self._place :], 0

    @property
    def held_bytes(self) -> int:
        """Bytes of an incomplete head and of unparsed data."""
        incomplete = not self.over and not self.between and self.message is None
        return len(self._rest) + (self._fed if incomplete else 0)

    def give_up(self, error: Exception) -> None:
        """Reject the current input, and stop parsing."""
        self._rest, self._place = b"", 0
        self._refuse(error)

    def _read_slice(self) -> None:
        """Parse the next slice of buffered data."""
        end = self._place + self._slice_bytes()
        part, self._place = self._rest[self._place : end], min(end, len(self._rest))
        while part and not self.over:
            part = self._parse(part)

    def _slice_bytes(self) -> int:
        """Return the size of the next slice. A body may be passed up to its end: no request begins within it."""
        message = self.message
        if message is None:
            return HEAD_SLICE_BYTES
        if message.length is None:
            return CHUNKED_SLICE_BYTES
        return min(PART, max(message.length - message.total, 1))

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; return the rest to be parsed again, where llhttp stopped but need not."""
        is_start, begun = self.between, self.begun
        self._fed = len(data) if is_start else self._fed + len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            self._fed -= len(rest)
            self._stay()
            return rest
        except HttpParserCallbackError as error:
            if self._error is None:
                raise
            self._refuse(self._error)
            del error
        except HttpParserError as error:
            is_first = is_start and self.begun == begun + 1
            if is_first and _is_of_method(error) and (replaced := self._with_stand_in(data)):
                return replaced
            self._refuse(fault_of(error))
        if self._has_body:
            self._pass_body_on()
        if self._fed > self._most or len(self._headers) > MAX_HEADERS:
            self._judge_size()
        return b""

    def _pass_body_on(self) -> None:
        """Report a new part of a body, once for all chunks of a slice: chunks may be as small as a byte."""
        self._has_body = False
        if self.message is not None:
            self._sink.on_body(self.message)

    def close(self) -> None:
        """Stop parsing, and release the llhttp parser, which refers back to this object."""
        self.over = True
        self._rest, self._place = b"", 0
        del self._parser

    # Called by the parser

    def on_message_begin(self) -> None:
        if not self._resuming:
            self.between = False
            self.begun += 1

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.message is None:  # else it is a trailer, which is ignored
            self._headers.append((name, value.strip(_BLANKS)))

    def on_headers_complete(self) -> None:
        target, self._target = self._target, b""
        headers, self._headers = self._headers, []
        if self._resuming or self.over:
            return
        try:
            if len(headers) > MAX_HEADERS or (self._fed > self._most and size_of(target, headers) > self._most):
                raise self._too_large()
            parser = self._parser
            if (version := parser.get_http_version()) != "1.1":
                check_version(version)
            message = self._sink.on_request_head(self._method or parser.get_method(), target, headers, parser)
        except Exception as error:
            self._error = error
            raise
        if message is not None and message.has_body:
            self.message = message
            self._skipping = parser.should_upgrade()
        elif message is not None and message.last:
            self.over = True

    def on_body(self, body: bytes) -> None:
        if self.message is not None:
            self.message.put(body)
            self._has_body = True

    def on_message_complete(self) -> None:
        if self._skipping:
            return
        self.between = True
        self._method = None
        self._fed = 0
        message, self.message = self.message, None
        if message is not None:
            message.whole = True
            if message.last:
                self.over = True
            self._sink.on_message_complete(message)

    # Cases where llhttp stops but need not

    def _stay(self) -> None:
        """Ignore an upgrade request and continue with HTTP/1.1, as RFC 9110, 7.8 allows."""
        if self._skipping and self.message is not None:  # llhttp expects no body; a new parser reads it
            self._skipping, self._resuming = False, True
            self._parser = self._new_parser()
            self._parser.feed_data(self.message.framing())
            self._resuming = False

    def _with_stand_in(self, data: bytes) -> bytes:
        """Return the data with a method that llhttp knows in place of an unknown one, to be parsed again; b"" if not.

        The data must hold no request before the one with this method: it would be executed twice.
        """
        method, _, rest = data.partition(b" ")
        if not rest or self._method is not None or not is_token(method):
            return b""
        self._parser = self._new_parser()
        self._target = b""
        self._method = method
        self._fed = 0
        return _STAND_IN + b" " + rest

    def _new_parser(self) -> HttpRequestParser:
        """Return a parser that accepts any HTTP version; `check_version` validates it."""
        parser = HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_version=True)
        return parser

    def _judge_size(self) -> None:
        """Reject a head, or the framing of a body, over its limit."""
        message = self.message
        if message is None and not self.between and not self.over:
            self._refuse(self._too_large())
        elif message is not None and self._fed > self._most + (1 + CHUNK_OVERHEAD) * message.total:
            self._refuse(not_http("its chunks are too small; send larger chunks"))

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(
            f"The request line and its headers may have at most {self._most} bytes and {MAX_HEADERS} headers."
        )

    def _refuse(self, error: Exception) -> None:
        if not self.over:
            self.over = True
            self._target, self._headers = b"", []
            broken, self.message = self.message, None
            self._sink.on_protocol_error(error, broken)


def _is_of_method(error: HttpParserError) -> bool:
    """Return whether llhttp stopped at a method that it does not know, or does not know in HTTP."""
    return isinstance(error, HttpParserInvalidMethodError) or str(error).startswith(_OTHER_PROTOCOL)
