"""What guidsvc is measured beside. Each is a program: `python -m bench.contenders.limit PORT`."""
