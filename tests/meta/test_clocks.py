"""Whatever ends by itself is checked by the clock that runs on while the host is suspended, `continuous_clock`.

On Linux and macOS, `time.monotonic`, `time.perf_counter` and the clock of the event loop stand still meanwhile. So only
the modules below may read them: they measure, pace work or limit waits, and nothing becomes invalid by what they read.
"""

import ast
import re
from collections.abc import Iterator

from tests.support.backing_servers import ROOT

LOOP_CLOCK = "loop.time"
SUSPENDED_CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", LOOP_CLOCK}
CLOCKS_BY_ID = {"clock_gettime", "clock_gettime_ns"}

MEASURES = "measures a duration for metrics, traces, logs or reports"
PACES = "paces work, or pauses in it"
WAITS = "limits how long something waits"
CLIENT_TIME = "limits the time of a client, to which a suspension of the service must not count"
USES = {
    "guidsvc/api/base/authentication.py": WAITS,
    "guidsvc/api/execution/pipeline.py": WAITS,
    "guidsvc/api/fast_path/direct_read.py": MEASURES,
    "guidsvc/api/fast_path/direct_request.py": WAITS,
    "guidsvc/api/fast_path/fixed_answers.py": MEASURES,
    "guidsvc/api/fast_path/load_shedding.py": MEASURES,
    "guidsvc/api/resources/batch/document_batch.py": PACES,
    "guidsvc/api/resources/events/handler.py": WAITS,
    "guidsvc/api/resources/events/stream.py": WAITS,
    "guidsvc/auth/authenticator.py": "delays the response to a failed login",
    "guidsvc/cache/memory.py": "keeps a key out of the cache, which may last longer",
    "guidsvc/cache/redis/begun_read.py": MEASURES,
    "guidsvc/cache/redis/link.py": MEASURES,
    "guidsvc/cli/remote/commands/checking.py": MEASURES,
    "guidsvc/cli/remote/commands/service.py": WAITS,
    "guidsvc/cli/remote/commands/watching.py": PACES,
    "guidsvc/store/sqlite/recovery/claim_record.py": WAITS,
    "guidsvc/doctor/backends/mongo.py": MEASURES,
    "guidsvc/doctor/backends/redis.py": MEASURES,
    "guidsvc/doctor/backends/sqlite.py": WAITS,
    "guidsvc/monitoring/logs/line_limit.py": "limits the lines of the log in a window",
    "guidsvc/monitoring/logs/standard_streams.py": WAITS,
    "guidsvc/monitoring/metric_files.py": WAITS,
    "guidsvc/monitoring/process_monitor.py": MEASURES,
    "guidsvc/process/reload.py": "limits how long a reload retries",
    "guidsvc/process/service_manager.py": "systemd expects this clock",
    "guidsvc/process/worker.py": "tells how long a worker has served, for its replacement",
    "guidsvc/runtime/admission.py": WAITS,
    "guidsvc/runtime/batching.py": WAITS,
    "guidsvc/runtime/fairness/fair_semaphore.py": WAITS,
    "guidsvc/runtime/in_flight.py": WAITS,
    "guidsvc/runtime/memory.py": MEASURES,
    "guidsvc/runtime/overload.py": MEASURES,
    "guidsvc/runtime/fairness/loop_turns.py": PACES,
    "guidsvc/server/accepting/rate_limited_log.py": "limits the lines of the log in a window",
    "guidsvc/server/protocol/read_throttle.py": PACES,
    "guidsvc/server/protocol/send_buffer.py": CLIENT_TIME,
    "guidsvc/server/protocol/state.py": CLIENT_TIME,
    "guidsvc/server/ticks.py": CLIENT_TIME,
    "guidsvc/server/tornado_server.py": WAITS,
    "guidsvc/services/events/scheduler.py": PACES,
    "guidsvc/services/events/tail.py": PACES,
    "guidsvc/services/quota.py": WAITS,
    "guidsvc/store/instrumented.py": MEASURES,
    "guidsvc/store/mongo/bulkhead.py": "limits the wait for an answer, as the driver does; the server checks deadlines",
    "guidsvc/store/mongo/events/log.py": PACES,
    "guidsvc/store/mongo/records.py": "begins the time limit of a bulkhead",
    "guidsvc/store/sqlite/engine.py": PACES,
    "guidsvc/store/sqlite/parts.py": WAITS,
    "guidsvc/store/sqlite/recovery/key_order.py": "limits the time of a scan",
    "guidsvc/store/sqlite/search/finder.py": MEASURES,
    "guidsvc/telemetry/metrics.py": MEASURES,
    "guidsvc/telemetry/outage.py": MEASURES,
    "guidsvc_client/protocol/workflows.py": PACES,
}
"""What each module that reads such a clock does with it."""
USES_BY_ID = {"guidsvc/runtime/clock.py", "guidsvc/store/sqlite/writer.py", "guidsvc_client/clock.py"}
"""The modules that read a clock by its id: the two that choose it, and the store that reads it in milliseconds."""


def clocks_in(source: str) -> set[str]:
    """Return the clocks that a module names: those of `time`, and `loop.time` for that of an event loop."""
    return set(_names_in(ast.parse(source))) & (SUSPENDED_CLOCKS | CLOCKS_BY_ID)


def _names_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.Attribute):
            is_of_module = isinstance(node.value, ast.Name) and node.value.id == "time"
            yield node.attr if is_of_module or node.attr != "time" else LOOP_CLOCK


def modules_with(clocks: set[str]) -> set[str]:
    """Return the modules of the service and of its client that name one of these clocks."""
    files = [file for folder in ("guidsvc", "guidsvc_client") for file in (ROOT / folder).rglob("*.py")]
    return {str(file.relative_to(ROOT)) for file in files if clocks_in(file.read_text()) & clocks}


def test_clock_that_stands_still_decides_nothing() -> None:
    assert modules_with(SUSPENDED_CLOCKS) - USES_BY_ID == set(USES)


def test_clock_by_id_is_read_in_one_place_per_package() -> None:
    assert modules_with(CLOCKS_BY_ID) == USES_BY_ID


def test_programs_of_the_lease_guide_count_by_no_such_clock() -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "leases.md").read_text(), re.DOTALL)
    assert len(programs) > 1
    assert not any(clocks_in(program) & SUSPENDED_CLOCKS for program in programs)


def test_each_form_of_a_clock_is_found() -> None:
    found = {
        "from time import monotonic as now": {"monotonic"},
        "import time\ntime.perf_counter_ns()": {"perf_counter_ns"},
        "timer = time.monotonic": {"monotonic"},
        "asyncio.get_running_loop().time()": {LOOP_CLOCK},
        "until = loop.time": {LOOP_CLOCK},
        "partial(time.clock_gettime, time.CLOCK_MONOTONIC)": {"clock_gettime"},
        "time.time()": set(),
    }
    assert {source: clocks_in(source) for source in found} == found
