"""Where profiles come from: [profiles]."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from suite.spec.part import Count, Part

SHAPLEY = "sliced Shapley value"  # the kind of profile that the head game makes


class ProfilesSpec(Part):
    """Profiles per model: for each method that needs one a file, ours or a published one, or else it is computed.

    prompts, length: of HeadKV's needles, per needle task, and their tokens, as in [ruler] or [longbench_mini] when left
    out. passkey_length, steps: of DuoAttention's training, on as many prompts. task_prompts, per_layer: LU-KV's
    validation prompts of each task, and whether importance counts as a share of a layer's. period: random tokens of
    RazorAttention's text, which stand there four times.
    """

    razorattention: str | None = None
    duoattention: str | None = None
    headkv_r: str | None = None
    headkv_r2: str | None = None
    lukv: str | None = None
    cokv: str | tuple[str, ...] | None = None  # released sums and counts come in one file per slice size
    prompts: Count = 4
    length: Count | None = None
    task_prompts: Count = 2
    passkey_length: Count | None = None
    steps: Count = 200
    period: Annotated[int, Field(ge=2, lt=1 << 31)] = 128
    per_layer: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    def files_of(self, method: str) -> tuple[str, ...]:
        """The files named for a method: none when its profile is to be computed."""
        named = getattr(self, method) if method in FILES else None
        return () if named is None else (named,) if isinstance(named, str) else tuple(named)


FILES = ("razorattention", "duoattention", "headkv_r", "headkv_r2", "lukv", "cokv")
