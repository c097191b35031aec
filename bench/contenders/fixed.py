"""The fixed response of the contenders: the response of guidsvc to a GET of a record, byte for byte."""

GUID = "9094E4C980C74043A4B586B420E69DDF"
BODY = b'{"guid":"%b","expire":"4102444800","user":"Cylance, Inc."}\n' % GUID.encode()
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Type": "application/json",
    "Cache-Control": "private, no-cache",
    "X-Request-Id": "43778ab71c1f888b009411dab075f63c",
    "ETag": '"1795570057176"',
    "Last-Modified": "Wed, 25 Nov 2026 01:27:37 GMT",
}
HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\nDate: Wed, 25 Nov 2026 01:27:37 GMT\r\n%bContent-Length: %d\r\n\r\n" % (
    b"".join(f"{name}: {value}\r\n".encode() for name, value in HEADERS.items()),
    len(BODY),
)
