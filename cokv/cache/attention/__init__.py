"""Attention of a few queries over ragged storage: `reference` is slow and obvious, `buckets` is fast; equal by test.

All backends share one signature (see `reference.attend`), so that a choice of backend never changes a result beyond
rounding.
"""
