"""How fast training is: `python -m benchmarks`."""
