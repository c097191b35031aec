"""Measurements, each a command: `python -m bench`; and `python -m bench.tail`, or another for tail: growth, footprint,
slow, million, batch, overload, workers, redis_down, cost.

None of them is a test, but `tests/system/test_costs.py` compares what `bench.cost` counts with a table.
"""
