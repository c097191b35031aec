"""Servers for comparison with guidsvc. Each is a program: `python -m bench.contenders.limit PORT`."""
