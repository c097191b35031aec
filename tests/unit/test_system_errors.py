"""Errors of the network and of TLS in plain words, as sockets and OpenSSL raise them."""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from errno import ECONNREFUSED, EHOSTUNREACH
from pathlib import Path

import pytest

from guidsvc.system_errors import NetworkFault, in_plain_words, network_fault, plain_reason
from tests.support.backing_servers import free_port
from tests.support.certificates import Certificate

SECONDS = 20


def raised(work: Callable[[], object]) -> BaseException:
    """Return the error that the work raises."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  # any: the test is about its text
        work()
    return caught.value


@contextmanager
def server(answer: Callable[[socket.socket], object]) -> Iterator[int]:
    """Answer one connection in a thread, and yield the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(SECONDS)


def handshake(port: int, trusted: Path | None = None, name: str = "127.0.0.1") -> None:
    """Speak TLS with a server as a client does."""
    context = ssl.create_default_context(cafile=trusted)
    with socket.create_connection(("127.0.0.1", port), SECONDS) as plain:
        context.wrap_socket(plain, server_hostname=name).close()


def reset(connection: socket.socket) -> None:
    """Break a connection off."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def serve_tls(certificate: Certificate) -> Callable[[socket.socket], None]:
    """Return the server's side of a handshake, which the client may refuse."""

    def answer(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate.cert, certificate.key)
        try:
            context.wrap_socket(connection, server_side=True).close()
        except OSError:
            return

    return answer


def test_closed_port_is_a_refused_connection() -> None:
    port = free_port()
    error = raised(lambda: socket.create_connection(("127.0.0.1", port), SECONDS))

    assert network_fault(error) is NetworkFault.REFUSED
    assert plain_reason(error) == "connection refused: nothing listens there"


def test_refused_connection_to_all_addresses_of_a_name_is_found() -> None:
    """Python reports them as a text."""
    port = free_port()
    error = raised(lambda: asyncio.run(asyncio.open_connection("localhost", port)))
    several = OSError(f"Multiple exceptions: [Errno {ECONNREFUSED}] Connect call failed ('::1', 1), [Errno 1] x")

    assert network_fault(error) is network_fault(several) is NetworkFault.REFUSED


def test_name_that_does_not_exist_is_unknown() -> None:
    error = raised(lambda: socket.create_connection(("nowhere.invalid", 1), SECONDS))

    assert network_fault(error) in {NetworkFault.UNKNOWN_NAME, NetworkFault.NO_LOOKUP}
    assert network_fault(socket.gaierror(socket.EAI_AGAIN, "x")) is NetworkFault.NO_LOOKUP


def test_silent_server_is_a_timeout() -> None:
    with (
        server(lambda connection: connection.recv(1) and None) as port,
        socket.create_connection(("127.0.0.1", port), 0.05) as connection,
    ):
        error = raised(lambda: connection.recv(1))

    assert network_fault(error) is NetworkFault.TIMEOUT


def test_reset_is_a_closed_connection() -> None:
    def talk() -> None:
        """Connect, too: the connection may break off as soon as it is there."""
        with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
            connection.recv(1)

    with server(reset) as port:
        error = raised(talk)

    assert network_fault(error) is NetworkFault.CLOSED


def test_host_without_a_route_is_unreachable() -> None:
    assert network_fault(OSError(EHOSTUNREACH, "No route to host")) is NetworkFault.UNREACHABLE


@pytest.mark.parametrize(
    ("fault", "age", "name", "is_trusted"),
    [
        (NetworkFault.UNTRUSTED, timedelta(days=-1), "127.0.0.1", False),
        (NetworkFault.EXPIRED, timedelta(hours=1), "127.0.0.1", True),
        (NetworkFault.WRONG_NAME, timedelta(days=-1), "127.0.0.2", True),
        (NetworkFault.WRONG_NAME, timedelta(days=-1), "guids.example", True),
    ],
)
def test_certificate_fault_is_named(
    tmp_path: Path, fault: NetworkFault, age: timedelta, name: str, is_trusted: bool
) -> None:
    certificate = Certificate(tmp_path)
    certificate.issue(not_after=datetime.now(UTC) - age)
    with server(serve_tls(certificate)) as port:
        error = raised(lambda: handshake(port, certificate.ca if is_trusted else None, name))

    assert network_fault(error) is fault
    assert in_plain_words(f"db:27017: {error}") == f"db:27017: {fault.reason}"


def test_answer_in_plain_text_is_no_tls() -> None:
    with server(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        error = raised(lambda: handshake(port))

    assert network_fault(error) is NetworkFault.NO_TLS
    assert in_plain_words(str(error)) == NetworkFault.NO_TLS.reason


def test_cause_is_found_behind_the_error_of_a_library() -> None:
    with pytest.raises(RuntimeError) as caught:
        _raise_as_a_library_does()

    assert network_fault(caught.value) is NetworkFault.REFUSED
    assert plain_reason(caught.value) == NetworkFault.REFUSED.reason


def _raise_as_a_library_does() -> None:
    try:
        raise ConnectionRefusedError(ECONNREFUSED, "x")
    except OSError:
        raise RuntimeError("outer") from None


def test_other_errors_have_the_text_of_the_system() -> None:
    error = raised(Path("/nowhere/at/all").read_bytes)

    assert network_fault(error) is None
    assert plain_reason(error) == "No such file or directory"
    assert plain_reason(ValueError("is not JSON")) == "is not JSON"
    assert plain_reason(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"a:1: [Errno {ECONNREFUSED}] Connection refused, b:2", f"a:1: {NetworkFault.REFUSED.reason}, b:2"),
        ("a: [Errno -2] Name or service not known", f"a: {NetworkFault.UNKNOWN_NAME.reason}"),
        ("a: [Errno 13] Permission denied", "a: Permission denied"),
        ("[SSL: TLSV1_ALERT_INTERNAL_ERROR] tlsv1 alert (_ssl.c:1006)", NetworkFault.HANDSHAKE.reason),
        ("no system error", "no system error"),
    ],
)
def test_text_of_a_library_is_in_plain_words(text: str, words: str) -> None:
    assert in_plain_words(text) == words
