"""Reading requests off a connection, with llhttp, the parser of Node.js.

Bytes go in, requests come out: whole heads, bodies as they come, and what is wrong with what is none. Nothing here
answers, and nothing here waits.
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
"""Bytes that a byte of a chunked body may cost, beside those that a head may have."""

HEAD_SLICE_BYTES, CHUNKED_SLICE_BYTES = 1024, 4096
"""Bytes that the parser gets at once. It cannot pause, so they bound how many requests begin before the next look."""

_BLANKS = b" \t"
"""Optional whitespace around the value of a header is not part of it (RFC 9112, 5); llhttp keeps what follows one."""

_STAND_IN = b"SOURCE"
"""A method that llhttp knows, and nobody serves."""


class ParserCallbacks(Protocol):
    """Who is told of what has been read."""

    def on_request_head(
        self, method: bytes, target: bytes, headers: RawHeaders, parser: HttpRequestParser
    ) -> RawRequest | None:
        """Take a head; return the request that it begins, or None if that is over with already.

        What it raises is what `refused` is told; nothing more is read then.
        """

    def has_room(self) -> bool:
        """Whether the next request may be parsed; else its bytes are kept until `Reader.resume`."""

    def on_body(self, message: RawRequest) -> None:
        """Note that more of the body of a request has come."""

    def on_message_complete(self, message: RawRequest) -> None:
        """Note that all of a request has come."""

    def on_protocol_error(self, error: Exception, broken: RawRequest | None) -> None:
        """Note that what has come is no request, or not the rest of the one that is `broken`."""


class RequestParser:
    """Reads one connection; heads of more than `most` bytes are refused."""

    __slots__ = (
        "_error",
        "_fed",
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
        self._rest, self._place = b"", 0  # what has come and is not parsed yet, from this place on
        self._reading = False  # the parser is at work, and calls back
        self._target = b""
        self._headers: RawHeaders = []
        self._method: bytes | None = None  # where the parser was told a stand-in
        self._fed = 0  # bytes that have come since the request began
        self._skipping = False  # llhttp takes a request for over that is not
        self._resuming = False  # a new parser is being told where the last one stopped
        self._error: Exception | None = None  # why the parser was stopped
        self.begun = 0
        """So many requests have begun."""
        self.between = True
        """Nothing of a next request has come."""
        self.message: RawRequest | None = None
        """The request whose body is being read."""
        self.over = False
        """Nothing more is to be read."""

    def feed(self, data: bytes) -> None:
        """Read what has come, as far as there is room for requests."""
        if self._rest or self.over or len(data) > HEAD_SLICE_BYTES or not self._sink.has_room():
            self._rest, self._place = self._rest[self._place :] + data, 0
            self.resume()
            return
        while data and not self.over:
            data = self._parse(data)

    def resume(self) -> None:
        """Read on in what has come."""
        if self._reading:  # the parser calls back, and the loop below goes on by itself
            return
        self._reading = True
        try:
            while self._place < len(self._rest) and not self.over and self._sink.has_room():
                self._read_slice()
        finally:
            self._reading = False
        if self.over or self._place == len(self._rest):
            self._rest, self._place = b"", 0
        elif self._place > len(self._rest) // 2:  # the bytes that were read take memory; half at a time, to copy few
            self._rest, self._place = self._rest[self._place :], 0

    @property
    def held_bytes(self) -> int:
        """Bytes of a head that is not complete, and of what waits for room."""
        incomplete = not self.over and not self.between and self.message is None
        return len(self._rest) + (self._fed if incomplete else 0)

    def give_up(self, error: Exception) -> None:
        """Refuse what is being read, and read no more."""
        self._rest, self._place = b"", 0
        self._refuse(error)

    def _read_slice(self) -> None:
        """Parse the next bytes of what has come."""
        end = self._place + self._slice_bytes()
        part, self._place = self._rest[self._place : end], min(end, len(self._rest))
        while part and not self.over:
            part = self._parse(part)

    def _slice_bytes(self) -> int:
        """Return how many bytes the parser may get: of a body as many as are left, as nothing begins within them."""
        message = self.message
        if message is None:
            return HEAD_SLICE_BYTES
        if message.length is None:
            return CHUNKED_SLICE_BYTES
        return min(PART, max(message.length - message.total, 1))

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; return those that are still to be parsed, where llhttp would have stopped and need not."""
        begins = self.between
        self._fed = len(data) if begins else self._fed + len(data)
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
        except HttpParserInvalidMethodError as error:
            return self._stand_in(data, error, begins=begins)
        except HttpParserError as error:
            self._refuse(fault_of(error))
        if self._fed > self._most or len(self._headers) > MAX_HEADERS:
            self._judge_size()
        return b""

    def close(self) -> None:
        """Read no more, and let go of the parser, which holds this."""
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
        if self.message is None:  # else it is a trailer, and means nothing here
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
            self._sink.on_body(self.message)

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

    # Where llhttp would stop, and need not

    def _stay(self) -> None:
        """Go on under HTTP/1.1 though the client would rather have another protocol, as one may (RFC 9110, 7.8)."""
        if self._skipping and self.message is not None:  # llhttp expects no body; a parser of its own reads it
            self._skipping, self._resuming = False, True
            self._parser = self._new_parser()
            self._parser.feed_data(self.message.framing())
            self._resuming = False

    def _stand_in(self, data: bytes, error: HttpParserError, *, begins: bool) -> bytes:
        """Return a request under a method that llhttp knows, in place of one that it does not, so that it is parsed."""
        method, _, rest = data.partition(b" ")
        if begins and rest and self._method is None and is_token(method):
            self._parser = self._new_parser()
            self._method = method
            self._fed = 0
            return _STAND_IN + b" " + rest
        self._refuse(fault_of(error))
        return b""

    def _new_parser(self) -> HttpRequestParser:
        """Return a parser that takes any version; `check_version` judges it."""
        parser = HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_version=True)
        return parser

    def _judge_size(self) -> None:
        """Refuse a head, or what frames a body, that goes on and on."""
        message = self.message
        if message is None and not self.between and not self.over:
            self._refuse(self._too_large())
        elif message is not None and self._fed > self._most + (1 + CHUNK_OVERHEAD) * message.total:
            self._refuse(not_http("its chunks are too small for what they cost"))

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"The head of a request is at most {self._most} bytes and {MAX_HEADERS} headers.")

    def _refuse(self, error: Exception) -> None:
        if not self.over:
            self.over = True
            self._target, self._headers = b"", []
            broken, self.message = self.message, None
            self._sink.on_protocol_error(error, broken)
