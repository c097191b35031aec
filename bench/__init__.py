"""Benchmarks, each a command: `python -m bench`, and `python -m bench.NAME` for tail, growth, footprint, slow, million,
batch, overload, workers, redis_down and cost.

They are not tests, but `tests/system/test_costs.py` compares the counts of `bench.cost` with a table.
"""
