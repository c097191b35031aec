"""Measurements, each a command: `python -m bench`; and `python -m bench.tail`, or another for tail: growth, footprint,
slow, million, batch, overload, workers, redis_down.

None of them is a test.
"""
