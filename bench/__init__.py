"""Measurements, each a command: `python -m bench`, and tail, growth, footprint, slow, million, batch, overload:
`bench.tail`.

None of them is a test.
"""
