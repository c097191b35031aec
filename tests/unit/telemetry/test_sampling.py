"""Head sampling: as often, and of the same traces, as a sampler of OpenTelemetry."""

from itertools import pairwise
from random import Random

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    StaticSampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from guidsvc.monitoring.request_tracer import RequestTracer, SpanTrace
from guidsvc.telemetry import traceparent
from guidsvc.telemetry.sampling import HeadSampler, policy_of

ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STANDARD = [
    ALWAYS_ON,
    ALWAYS_OFF,
    DEFAULT_ON,
    DEFAULT_OFF,
    *(TraceIdRatioBased(rate) for rate in (0.0, 1e-30, 0.01, 0.5, 1.0)),
    *(ParentBasedTraceIdRatio(rate) for rate in (0.0, 1e-30, 0.01, 0.5, 1.0)),
]


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
def test_requests_are_sampled_with_the_rate_and_independently(rate: float) -> None:
    sampler = HeadSampler(rate, Random(7).random)
    sampled = [sampler.draw() for _ in range(200_000)]
    after_sample = [now for before, now in pairwise(sampled) if before]

    for draws in (sampled, after_sample):
        deviation = (rate * (1 - rate) / len(draws)) ** 0.5
        assert abs(sum(draws) / len(draws) - rate) < 4 * deviation


@pytest.mark.parametrize(("rate", "expected"), [(0.0, {False}), (1e-300, {False}), (1.0, {True})])
def test_sampler_takes_all_or_none_at_the_ends(rate: float, expected: set[bool]) -> None:
    sampler = HeadSampler(rate)

    assert {sampler.draw() for _ in range(1000)} == expected


def test_sample_that_is_not_taken_is_left_to_the_next_draw() -> None:
    sampler = HeadSampler(0.5)
    sampler.gap = 2

    assert [sampler.skip() for _ in range(4)] == [True, True, False, False]
    assert sampler.draw()


@pytest.mark.parametrize("sampler", STANDARD, ids=lambda sampler: str(sampler.get_description())[:45])
def test_policy_decides_as_the_standard_sampler_does(sampler: Sampler) -> None:
    policy, random = policy_of(sampler.get_description()), Random(3)
    for number in range(2000):
        trace_id = f"{random.getrandbits(128):032x}" if number else "0" * 31 + "1"
        header = f"00-{trace_id}-{SPAN}-{number % 2:02x}"
        parent = TraceContextTextMapPropagator().extract({"traceparent": header}, Context())
        decision = sampler.should_sample(parent, int(trace_id, 16), "a").decision
        expected = decision is Decision.RECORD_AND_SAMPLE

        assert policy.samples((trace_id, bool(number % 2))) is expected

    root = sampler.should_sample(Context(), 1 << 63, "a").decision
    assert (policy.rate > 0.5) is (root is Decision.RECORD_AND_SAMPLE)


@pytest.mark.parametrize("sampler", STANDARD, ids=lambda sampler: str(sampler.get_description())[:45])
def test_every_drawn_trace_is_exported(sampler: Sampler) -> None:
    tracer = RequestTracer(TracerProvider(sampler=sampler, shutdown_on_exit=False), "sqlite")
    tracer.sampler.gap = 0 if tracer.sampler.gap < 10**20 else tracer.sampler.gap
    trace = tracer.begin("id", "127.0.0.1", {}, secure=False)

    assert (trace is None) is (policy_of(sampler.get_description()).bound == 0)
    assert trace is None or isinstance(trace, SpanTrace)


class EveryThird(StaticSampler):
    """A sampler that is not a standard one."""

    def __init__(self) -> None:
        super().__init__(ALWAYS_ON.should_sample(None, 1, "a").decision)
        self._asked = 0

    def should_sample(self, *args: object, **options: object):  # type: ignore[no-untyped-def]  # noqa: ANN201
        self._asked += 1
        return (ALWAYS_OFF if self._asked % 3 else ALWAYS_ON).should_sample(None, 1, "a")

    def get_description(self) -> str:
        return "EveryThird"


def test_another_sampler_is_asked_about_each_request() -> None:
    tracer = RequestTracer(TracerProvider(sampler=EveryThird(), shutdown_on_exit=False), "sqlite")
    parent = {"traceparent": f"00-{ID}-{SPAN}-01"}
    traces = [tracer.begin("id", "127.0.0.1", headers, secure=False) for headers in ({}, parent, {}) * 2]

    assert [isinstance(trace, SpanTrace) for trace in traces] == [False, False, True] * 2
    assert [None if trace is None else trace.trace_id for trace in traces[:2]] == [None, ID]
    unusual: Sampler = ParentBased(ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON)
    assert policy_of(unusual.get_description()).rate == 1, "also where the parent decides otherwise"


@pytest.mark.parametrize(
    "header",
    [
        f"00-{ID}-{SPAN}-00",
        f"00-{ID}-{SPAN}-01",
        f"00-{ID}-{SPAN}-03",
        f"00-{ID}-{SPAN}-fe",
        f" \t00-{ID}-{SPAN}-01 \t",
        f"00-{ID}-{SPAN}-01-",
        f"00-{ID}-{SPAN}-01-more",
        f"01-{ID}-{SPAN}-01-more",
        f"01-{ID}-{SPAN}-01more",
        f"01-{ID}-{SPAN}-01",
        f"01-{ID}-{SPAN}-01-{'x' * 456}",
        f"01-{ID}-{SPAN}-01-{'x' * 457}",
        f"ff-{ID}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID.upper()}-{SPAN}-01",
        f"00-{ID}-{SPAN}-1",
        f"00-{ID}-{SPAN}",
        f"x00-{ID}-{SPAN}-01",
        f"00-{ID}-{SPAN}-01, 00-{ID}-{SPAN}-01",
        "",
        "nonsense",
    ],
)
def test_header_of_the_client_is_read_as_the_library_reads_it(header: str) -> None:
    context = TraceContextTextMapPropagator().extract({"traceparent": header}, Context())
    found = get_current_span(context).get_span_context()
    expected = (f"{found.trace_id:032x}", found.trace_flags.sampled) if found.is_valid else None

    assert traceparent.parse(header) == expected
