"""Links: a call that several requests shared is a span in the trace of one of them, linked to all of them."""

import asyncio

from guidsvc.runtime.batching import Batcher
from guidsvc.telemetry.metrics import BatchMetrics
from guidsvc.telemetry.tracing import CURRENT, MAX_LINKS, RequestTrace, Wait
from tests.conftest import Serving
from tests.support.factories import USER
from tests.support.metrics import until_cached
from tests.support.trace_receiver import CLIENT, ReceivedSpan, TraceReceiver


def shared_calls(
    receiver: TraceReceiver, spans: list[ReceivedSpan], name: str
) -> list[tuple[ReceivedSpan, ReceivedSpan]]:
    """Return each shared call with this name, and the request that has it."""
    return [(child, span) for span in spans for child in receiver.children(span) if child.name == name]


async def test_group_commit_links_the_requests_that_it_carried(serving: Serving, receiver: TraceReceiver) -> None:
    async with serving(tracing="otlp") as client:
        await asyncio.gather(*[client.put(f"/guid/{number:032X}", {"user": USER}) for number in range(60)])
        spans = await asyncio.to_thread(receiver.wait_for, 60)
    commits = shared_calls(receiver, spans, "store commit")

    assert commits
    linked = [link for commit, _ in commits for link in commit.links]
    assert len(linked) == len(set(linked)), "a request is carried by one commit"
    assert set(linked) <= {(span.trace_id, span.span_id) for span in spans}
    for commit, request in commits:
        assert (commit.kind, commit.trace_id) == (CLIENT, request.trace_id)
        assert (request.trace_id, request.span_id) in commit.links
        assert commit.attributes["db.system.name"] == "sqlite"
        assert commit.attributes["db.operation.name"] == "commit"
        assert commit.attributes["db.operation.batch.size"] == len(commit.links) > 1
        assert request.started_ns <= commit.started_ns <= commit.ended_ns <= request.ended_ns


async def test_commit_of_batches_counts_their_changes(serving: Serving, receiver: TraceReceiver) -> None:
    async with serving(tracing="otlp") as client:
        bodies = [
            {"operations": [{"op": "put", "guid": f"{10 * batch + number:032X}", "user": USER} for number in range(10)]}
            for batch in range(40)
        ]
        await asyncio.gather(*[client.post("/guid:batch", body) for body in bodies])
        spans = await asyncio.to_thread(receiver.wait_for, 40)
    commits = [commit for commit, _ in shared_calls(receiver, spans, "store commit")]

    assert commits
    assert [commit.attributes["db.operation.batch.size"] for commit in commits] == [
        10 * len(commit.links) for commit in commits
    ]


async def test_requests_that_are_not_sampled_are_not_linked(serving: Serving, receiver: TraceReceiver) -> None:
    async with serving(tracing="otlp") as client:
        await asyncio.gather(
            *[
                client.put(
                    f"/guid/{number:032X}",
                    {"user": USER},
                    headers={"traceparent": f"00-{number + 1:032x}-{'b' * 16}-{'01' if number % 2 else '00'}"},
                )
                for number in range(60)
            ]
        )
        spans = await asyncio.to_thread(receiver.wait_for, 30)
    commits = shared_calls(receiver, spans, "store commit")

    assert {(span.trace_id, span.span_id) for span in spans} >= {link for commit, _ in commits for link in commit.links}
    assert sum(commit.attributes["db.operation.batch.size"] for commit, _ in commits) > sum(
        len(commit.links) for commit, _ in commits
    )


async def test_shared_round_trip_to_redis_links_its_requests(
    serving: Serving, receiver: TraceReceiver, redis_url: str
) -> None:
    async with serving(tracing="otlp", cache_url=redis_url) as client:
        await until_cached(client)
        await asyncio.gather(*[client.get(f"/guid/{number:032X}") for number in range(60)])
        async with asyncio.timeout(30):
            while len(spans := [span for span in receiver.requests if span.name == "GET /guid/{guid}"]) < 60:
                await asyncio.sleep(0.01)
    calls = shared_calls(receiver, spans, "redis batch")

    assert calls
    assert all(call.attributes["db.system.name"] == "redis" and len(call.links) > 1 for call, _ in calls)


# One batcher


class SampledTrace(RequestTrace):
    """A trace with waits, and no span."""

    __slots__ = ("waits",)
    waits: list[Wait] | None


def sampled(name: str) -> SampledTrace:
    """Return a trace that is exported."""
    trace = SampledTrace(name)
    trace.waits = []
    return trace


async def ask(batcher: Batcher[int, int], trace: RequestTrace | None, item: int = 0) -> int:
    """Submit an item for the request of a trace."""
    token = CURRENT.set(trace)
    try:
        return await batcher.ask(item)
    finally:
        CURRENT.reset(token)


def batcher_of(part: str = "store") -> Batcher[int, int]:
    """Return a batcher whose calls have a name."""

    async def run(items: list[int]) -> list[int]:
        await asyncio.sleep(0)
        return items

    return Batcher(run, limit=1000, in_flight=1, meter=BatchMetrics(part, "commit"))


async def test_links_of_a_call_are_bounded_and_distinct() -> None:
    batcher, traces = batcher_of(), [sampled(str(number)) for number in range(MAX_LINKS + 50)]
    await asyncio.gather(*[ask(batcher, trace) for trace in [*traces[:1] * 3, *traces]])

    (wait,) = traces[0].waits or []
    assert (wait.part, wait.operation, wait.calls) == ("store", "commit", MAX_LINKS + 53)
    assert list(wait.links) == traces[:MAX_LINKS]
    assert all(trace.waits == [] for trace in traces[1:])
    assert not batcher._traces
    assert not batcher._begun


async def test_call_of_an_ended_request_is_recorded_by_another() -> None:
    """As of a request that has timed out."""
    batcher, (first, second) = batcher_of(), (sampled("first"), sampled("second"))
    asked = [asyncio.create_task(ask(batcher, trace)) for trace in (first, second)]
    await asyncio.sleep(0)
    first.waits = None
    await asyncio.gather(*asked)

    assert [list(wait.links) for wait in second.waits or []] == [[first, second]]


async def test_call_with_nothing_to_link_is_not_recorded() -> None:
    """It has one item, its batcher has no name, or no request of it is sampled."""
    trace = sampled("a")
    await ask(batcher_of(), trace)
    unnamed = batcher_of("")
    await asyncio.gather(ask(unnamed, trace), ask(unnamed, trace))
    named, plain = batcher_of(), RequestTrace("b")
    await asyncio.gather(ask(named, plain), ask(named, None))

    assert (trace.waits, plain.waits) == ([], None)


async def test_cancelled_request_leaves_nothing_behind() -> None:
    batcher, (first, second) = batcher_of(), (sampled("first"), sampled("second"))
    asked = [asyncio.create_task(ask(batcher, trace)) for trace in (first, second)]
    await asyncio.sleep(0)
    asked[0].cancel()
    await asyncio.gather(*asked, return_exceptions=True)

    assert not batcher._traces
    assert not batcher._begun
    assert first.waits == []
