"""LongBench as its authors run it: tasks, data, prompts, protocols, metrics. Knows no model and loads no torch."""

from longbench.errors import LongBenchError

__all__ = ["LongBenchError"]
