"""Games with known answers, for tests and benchmarks."""
