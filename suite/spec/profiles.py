"""The sources of profiles: [profiles]."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cokv.profiles.shipped import SHAPLEY
from suite.spec.part import Count, Part

__all__ = ["FILES", "SHAPLEY", "ProfilesSpec"]


class ProfilesSpec(Part):
    """Profiles per model: for each method that needs one a file, ours or a published one; None: as `source` says.

    source: `computed` in the run, `shipped` with the model of the experiment (a method without a shipped profile is
    refused, not computed), or `shipped_or_computed`. CoKV's head scores come from the game where there is one.
    prompts, length: number per needle task, and tokens, of HeadKV's needle prompts; length None: as in [ruler] or
    [longbench_mini]. passkey_length, steps: tokens per prompt, and number of training steps (one prompt each), of
    DuoAttention. task_prompts, per_layer: LU-KV's validation prompts per task, and whether importance is normalized per
    layer. period: number of random tokens that RazorAttention's text repeats four times; None: chosen by how well the
    model copies it.
    """

    razorattention: str | None = None
    duoattention: str | None = None
    headkv_r: str | None = None
    headkv_r2: str | None = None
    lukv: str | None = None
    cokv: str | tuple[str, ...] | None = None  # released sums and counts come in one file per slice size
    source: Literal["computed", "shipped", "shipped_or_computed"] = "computed"
    prompts: Count = 4
    length: Count | None = None
    task_prompts: Count = 2
    passkey_length: Count | None = None
    steps: Count = 200
    period: Annotated[int, Field(ge=2, lt=1 << 31)] | None = None
    per_layer: bool = False
    seed: Annotated[int, Field(ge=0)] = 0

    def files_of(self, method: str) -> tuple[str, ...]:
        """The profile files of a method; none if its profile is to be computed."""
        named = getattr(self, method) if method in FILES else None
        return () if named is None else (named,) if isinstance(named, str) else tuple(named)


FILES = ("razorattention", "duoattention", "headkv_r", "headkv_r2", "lukv", "cokv")
