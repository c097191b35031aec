"""Measurements, each a command: `python -m bench`, and tail, growth, footprint, slow, million and batch, as `bench.tail`.

None of them is a test.
"""
