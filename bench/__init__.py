"""Measurements, each a command: `python -m bench.million`, `python -m bench.batch`. None of them is a test."""
