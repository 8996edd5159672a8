"""Checks the head scores that an allocator receives as its profile."""

from __future__ import annotations

from typing import Any

from cokv.types import CokvError, FloatArray, HeadScores


def head_scores(profile: Any, num_layers: int, num_kv_heads: int, who: str) -> FloatArray:
    """Values [num_layers, num_kv_heads]. who: the allocator, for the error."""
    if not isinstance(profile, HeadScores):
        got = "none" if profile is None else type(profile).__name__
        raise CokvError(f"{who} allocates by head scores and got {got}; compute or load HeadScores and pass profile=")
    return profile.require_shape(num_layers, num_kv_heads).values
