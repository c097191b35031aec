"""Incremental HTTP/1.1 parser, based on llhttp, the parser of Node.js.

It emits complete request heads, body chunks, and protocol errors. It neither sends nor waits.
"""

from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from guidsvc.http.errors import HeadersTooLarge
from guidsvc.http.headers.recognized import MAX_HEADERS
from guidsvc.server.protocol.parser_callbacks import ParserCallbacks
from guidsvc.server.protocol.request import (
    LINE_BYTES,
    PART,
    RawHeaders,
    RawRequest,
    RejectedRequest,
    check_version,
    fault_of,
    is_token,
    not_http,
    origin_of,
    size_of,
)

CHUNK_OVERHEAD = 16
"""Maximum framing bytes per byte of a chunked body, in addition to the limit of a head."""

SLICE_BYTES = 1024
"""Bytes parsed at once wherever requests may begin. The parser cannot pause, so this bounds the requests that begin
between checks of `has_room`, also behind the end of a chunked body."""

HEAD_SLICES, CHUNKED_SLICES, REQUESTS = 16, 4, 8
"""Number of slices of heads, of slices of a chunked body, and of requests, after which the rest waits for its turn.
Each request, header and chunk costs time, and a slice may hold tens and hundreds."""

_BLANKS = b" \t"
"""Whitespace around a header value is not part of it (RFC 9112, 5); llhttp keeps the trailing whitespace."""

_STAND_IN = b"SOURCE"
"""A method that llhttp knows and that no route serves."""
_OTHER_PROTOCOL = "Invalid method for HTTP/"
"""The start of llhttp's error for a method of RTSP, which it knows, in an HTTP request."""


class RequestParser:
    """The parser of one connection; it rejects heads of more than `max_bytes`."""

    __slots__ = (
        "_buffer",
        "_callbacks",
        "_error",
        "_has_body",
        "_headers",
        "_is_parsing",
        "_is_restarting",
        "_is_upgrade",
        "_max_bytes",
        "_method",
        "_offset",
        "_parser",
        "_request_bytes",
        "_target",
        "is_between_requests",
        "is_finished",
        "message",
        "request_count",
    )

    def __init__(self, callbacks: ParserCallbacks, max_bytes: int) -> None:
        self._callbacks = callbacks
        self._max_bytes = max_bytes
        self._parser = self._new_parser()
        self._buffer, self._offset = b"", 0  # received bytes, and the offset of the first unparsed one
        self._is_parsing = False  # `resume` is running; parser callbacks may call it again
        self._target = b""
        self._headers: RawHeaders = []
        self._method: bytes | None = None  # the real method, if the parser got the stand-in
        self._request_bytes = 0  # bytes received since the request began
        self._is_upgrade = False  # llhttp reports an upgrade request as complete before its body
        self._is_restarting = False  # a new parser is being set to the state of the last one
        self._has_body = False  # a part of the body of `message` was not reported yet
        self._error: Exception | None = None  # why the parser was stopped
        self.request_count = 0
        """Number of requests begun."""
        self.is_between_requests = True
        """Whether no part of a next request has arrived."""
        self.message: RawRequest | None = None
        """The request whose body is being read."""
        self.is_finished = False
        """Whether parsing has ended."""

    def feed(self, data: bytes) -> None:
        """Parse received data while `has_room`; buffer the rest."""
        if self._buffer or self.is_finished or len(data) > SLICE_BYTES or not self._callbacks.has_room():
            self._buffer, self._offset = self._buffer[self._offset :] + data, 0
            self.resume()
            return
        while data and not self.is_finished:
            data = self._parse(data)
        if self._has_body:
            self._pass_body_on()

    def resume(self) -> None:
        """Parse buffered data while `has_room`."""
        if self._is_parsing:  # called back from the loop below, which continues
            return
        self._is_parsing = True
        slices, requests_before = 0, self.request_count
        try:
            while self._offset < len(self._buffer) and not self.is_finished and self._callbacks.has_room():
                if slices >= HEAD_SLICES or self.request_count - requests_before >= REQUESTS:
                    self._callbacks.resume_parsing_soon()
                    break
                slices += self._read_next()
                if self._has_body:
                    self._pass_body_on()
        finally:
            self._is_parsing = False
        if self.is_finished or self._offset == len(self._buffer):
            self._buffer, self._offset = b"", 0
        elif self._offset > len(self._buffer) // 2:  # free parsed bytes; only past half, to copy little
            self._buffer, self._offset = self._buffer[self._offset :], 0

    @property
    def buffered_bytes(self) -> int:
        """Memory of an incomplete head and of unparsed data."""
        is_incomplete = not self.is_finished and not self.is_between_requests and self.message is None
        head_bytes = self._request_bytes + LINE_BYTES * len(self._headers) if is_incomplete else 0
        return len(self._buffer) + head_bytes

    def reject(self, error: Exception) -> None:
        """Reject the current input, and stop parsing."""
        self._buffer, self._offset = b"", 0
        self._fail(error)

    def _read_next(self) -> int:
        """Parse the next part of the buffered data. Return for how many slices of heads it counts."""
        message = self.message
        if message is None:
            self._read_slice(SLICE_BYTES)
            return 1
        if message.length is not None:  # no request begins before the end of the body
            self._read_slice(min(PART, max(message.length - message.total_bytes, 1)))
            return 0
        for _ in range(CHUNKED_SLICES):
            if self.message is message:  # else the body has ended, and requests may follow
                self._read_slice(SLICE_BYTES)
        return HEAD_SLICES

    def _read_slice(self, size: int) -> None:
        """Parse the next `size` bytes."""
        end = self._offset + size
        part, self._offset = self._buffer[self._offset : end], min(end, len(self._buffer))
        while part and not self.is_finished:
            part = self._parse(part)

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; return the rest to be parsed again, where llhttp stopped but need not."""
        is_start, count_before = self.is_between_requests, self.request_count
        self._request_bytes = len(data) if is_start else self._request_bytes + len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            self._request_bytes -= len(rest)
            self._ignore_upgrade()
            return rest
        except HttpParserCallbackError as error:
            failure, self._error = self._error, None  # its traceback refers to the request
            if failure is None:
                raise
            self._fail(failure)
            del error, failure
        except HttpParserError as error:
            is_first = is_start and self.request_count == count_before + 1
            if is_first and _is_of_method(error) and (replaced := self._with_stand_in(data)):
                return replaced
            self._fail(fault_of(error, data if is_start else b""))
        if self._request_bytes > self._max_bytes or len(self._headers) > MAX_HEADERS:
            self._check_size()
        return b""

    def _pass_body_on(self) -> None:
        """Report a new part of a body, once for all chunks of a turn: chunks may be as small as a byte."""
        self._has_body = False
        if self.message is not None:
            self._callbacks.on_body(self.message)

    def close(self) -> None:
        """Stop parsing, and release the llhttp parser, which refers back to this object."""
        self.is_finished = True
        self._buffer, self._offset = b"", 0
        del self._parser

    # Called by the parser

    def on_message_begin(self) -> None:
        if not self._is_restarting:
            self.is_between_requests = False
            self.request_count += 1

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.message is None:  # else it is a trailer, which is ignored
            self._headers.append((name, value.strip(_BLANKS)))

    def on_headers_complete(self) -> None:
        target, self._target = self._target, b""
        headers, self._headers = self._headers, []
        if self._is_restarting or self.is_finished:
            return
        try:
            if len(headers) > MAX_HEADERS or (
                self._request_bytes > self._max_bytes and size_of(target, headers) > self._max_bytes
            ):
                raise self._too_large()
            parser = self._parser
            if (version := parser.get_http_version()) != "1.1":
                check_version(version)
            message = self._callbacks.on_request_head(self._method or parser.get_method(), target, headers, parser)
        except Exception as error:
            self._error, self._headers = error, headers
            raise
        if message is not None and message.has_body:
            self.message = message
            self._is_upgrade = parser.should_upgrade()
        elif message is not None and message.last:
            self.is_finished = True

    def on_body(self, body: bytes) -> None:
        if self.message is not None:
            self.message.put(body)
            self._has_body = True

    def on_message_complete(self) -> None:
        if self._is_upgrade:
            return
        self.is_between_requests = True
        self._method = None
        self._request_bytes = 0
        message, self.message = self.message, None
        if message is not None:
            message.is_complete = True
            if message.last:
                self.is_finished = True
            self._callbacks.on_message_complete(message)

    # Cases where llhttp stops but need not

    def _ignore_upgrade(self) -> None:
        """Ignore an upgrade request and continue with HTTP/1.1, as RFC 9110, 7.8 allows."""
        if self._is_upgrade and self.message is not None:  # llhttp expects no body; a new parser reads it
            self._is_upgrade, self._is_restarting = False, True
            self._parser = self._new_parser()
            self._parser.feed_data(self.message.framing())
            self._is_restarting = False

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
        self._request_bytes = 0
        return _STAND_IN + b" " + rest

    def _new_parser(self) -> HttpRequestParser:
        """Return a parser that accepts any HTTP version; `check_version` validates it."""
        parser = HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_version=True)
        return parser

    def _check_size(self) -> None:
        """Reject a head, or the framing of a body, over its limit."""
        message = self.message
        if message is None and not self.is_between_requests and not self.is_finished:
            self._fail(self._too_large())
        elif message is not None and self._request_bytes > self._max_bytes + (1 + CHUNK_OVERHEAD) * message.total_bytes:
            self._fail(not_http("its chunks are too small; send larger chunks"))

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(self._max_bytes, MAX_HEADERS)

    def _fail(self, error: Exception) -> None:
        if not self.is_finished:
            self.is_finished = True
            headers, self._target, self._headers = self._headers, b"", []
            broken, self.message = self.message, None
            rejected = RejectedRequest(error, origin_of(headers)) if broken is None else broken.rejected(error)
            self._callbacks.on_protocol_error(rejected, broken)


def _is_of_method(error: HttpParserError) -> bool:
    """Return whether llhttp stopped at a method that it does not know, or does not know in HTTP."""
    return isinstance(error, HttpParserInvalidMethodError) or str(error).startswith(_OTHER_PROTOCOL)
