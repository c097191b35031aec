"""The figures that `bench.wrk` reads from recorded reports of wrk."""

import pytest

from bench.wrk import Measured, read

FAST = """\
Running 2s test @ http://127.0.0.1:8888/guid/9094E4C980C74043A4B586B420E69DDF
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   281.45us   92.19us   3.98ms   91.28%
    Req/Sec   113.31k     4.63k  119.05k    90.48%
  Latency Distribution
     50%  262.00us
     75%  291.00us
     90%  351.00us
     99%  648.00us
  236712 requests in 2.10s, 75.85MB read
Requests/sec: 112719.43
Transfer/sec:     36.12MB
"""
SLOW = """\
Running 4s test @ http://127.0.0.1:41183/guid
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.30s   178.98ms   1.60s    53.09%
    Req/Sec    30.00     22.06    90.00     73.91%
  Latency Distribution
     50%    1.29s \n\
     75%    1.46s \n\
     90%    1.54s \n\
     99%    1.60s \n\
  81 requests in 4.09s, 15.12KB read
  Non-2xx or 3xx responses: 10
Requests/sec:     19.79
Transfer/sec:      3.69KB
"""


def test_latencies_below_a_second_are_read() -> None:
    assert read(FAST) == Measured(rate=112719.43, requests=236712, p50=0.262, p99=0.648, failed=0)


def test_latencies_of_a_second_or_more_are_read() -> None:
    assert read(SLOW) == Measured(rate=19.79, requests=81, p50=1290.0, p99=1600.0, failed=10)


def test_report_without_a_figure_is_rejected() -> None:
    with pytest.raises(RuntimeError, match="wrk says nothing of"):
        read(FAST.replace("     99%  648.00us\n", ""))
