"""The fixture of the tests of traces.

receiver    a receiver of OpenTelemetry traces, to which each service of the test exports
"""

from collections.abc import Iterator

import pytest

from tests.support.trace_receiver import TraceReceiver, trace_receiver, wait_for_senders


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[TraceReceiver]:
    with trace_receiver() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running
    wait_for_senders()
