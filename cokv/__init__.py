"""KV-cache compression under one budget rule: selections, the ragged cache, the head game. Knows nothing of benchmarks."""

__version__ = "0.1.0"
