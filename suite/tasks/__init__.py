"""Benchmarks behind one shape: tasks, prompts, metrics."""
