"""Stands for `python pdapt.py` in a shell: `python -IS program_stub.py SOCKET ARGUMENTS`.

It hands its arguments, environment, folder and standard streams to `tests.support.forked_shell`, which forks the
program, and ends like the program. It imports only what Python has built in, so its start takes a hundredth of a second
of CPU.
"""

import _socket
import os
import sys


def _open_streams() -> list[int]:
    """Return which of the standard streams are open."""
    open_streams = []
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            continue
        open_streams.append(descriptor)
    return open_streams


def main() -> None:
    """Have the program forked, and end like it; without a reply, end at once."""
    streams = _open_streams()
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(f"\0{sys.argv[1]}")
    descriptors = [os.open(".", os.O_RDONLY), *streams]
    packed = b"".join(number.to_bytes(4, sys.byteorder) for number in descriptors)
    variables = [b"%b=%b" % item for item in os.environb.items()]
    arguments = [os.fsencode(word) for word in sys.argv[2:]]
    parts = [b"".join(b"%d" % number for number in streams), b"%d" % len(arguments), *arguments, *variables]
    connection.sendmsg([b"\n"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, packed)])
    connection.sendall(b"\0\0".join(parts))
    connection.shutdown(_socket.SHUT_WR)
    code = int(connection.recv(16) or b"0")
    if code < 0:
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
