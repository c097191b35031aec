"""The event loop of the tests: a test that leaves a connection open fails, instead of whichever runs later."""

import asyncio


class StrictLoop(asyncio.SelectorEventLoop):
    """An event loop that has no open connection at its end."""

    def close(self) -> None:
        """Close the loop; AssertionError if a connection is open."""
        transports = [] if self.is_closed() else list(self._transports.values())  # type: ignore[attr-defined]
        open_connections = [
            (each.get_extra_info("sockname"), each.get_extra_info("peername"), each.get_protocol())
            for each in transports
            if each._sock is not None
        ]
        super().close()
        assert not open_connections, f"the test has left connections open: {open_connections}"
