"""Small stand-ins for LongBench's 21 data sets: official schema, categories and metrics, our wording, generated.

They exist so that the whole suite runs anywhere, with a model of a few million parameters. Scores on them say nothing
about LongBench itself, and every record of theirs is marked as generated.
"""
