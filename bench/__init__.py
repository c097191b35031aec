"""Measurements, each a command: `python -m bench`, and growth, footprint, slow, million and batch, as `bench.growth`.

None of them is a test.
"""
