"""A small, valid experiment file, for tests that change it."""

GOOD = """
name = "tiny"
methods = ["full", "snapkv"]
kv_budgets = [32]

[method_defaults]
window_size = 8

[ruler]
preset = "mini"
length = 256
samples = 3
tasks = ["niah_single_1"]
"""
