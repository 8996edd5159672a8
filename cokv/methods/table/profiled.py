"""Methods that know the heads: budgets from what was computed offline, per model or per task."""

from __future__ import annotations

from cokv.methods.allocators.cokv import CoKV
from cokv.methods.allocators.headkv import HeadKV
from cokv.methods.allocators.lukv import LUKV
from cokv.methods.allocators.retrieval_streaming import RetrievalStreaming
from cokv.methods.entries import MethodEntry, Preset
from cokv.methods.scorers.expected_attention import ExpectedAttention
from cokv.methods.scorers.streaming import Streaming
from cokv.methods.scorers.window_attention import WindowAttention


def _headkv(name: str, title: str, profile: str) -> MethodEntry:
    """One rule for two profiles."""
    return MethodEntry(
        name=name,
        title=title,
        paper="https://arxiv.org/abs/2410.19258",
        code="https://github.com/FYYFU/HeadKV",
        policy="grow",
        profile=profile,
        profile_kinds=("HeadKV",),
        presets={
            "normalized": Preset(WindowAttention(), HeadKV(), f"budgets follow {profile}, total kept"),
            "official": Preset(
                WindowAttention(window_size=8, score_dtype="model"),
                HeadKV(exact=False),
                "the KV-head form in nawei1010/CoKV, adaptive_kv/monkeypatch/kv_utils.py set_headkv_size; shares "
                "are floored",
            ),
        },
    )


PROFILED: tuple[MethodEntry, ...] = (
    _headkv("headkv_r", "HeadKV-R", "retrieval scores"),
    _headkv("headkv_r2", "HeadKV-R2", "retrieval-reasoning scores"),
    MethodEntry(
        name="lukv",
        title="LU-KV",
        paper="https://arxiv.org/abs/2602.08585",
        code="https://github.com/NVIDIA/kvpress",
        policy="grow",
        profile="keep-ratio curves",
        profile_kinds=("LU-KV",),
        presets={
            "normalized": Preset(
                WindowAttention(), LUKV(), "each head's share is looked up in curves made offline, total kept"
            ),
            "kvpress": Preset(
                ExpectedAttention(epsilon=0.02, recent=1),
                LUKV(),
                "kvpress/presses/lukv_press.py: over ExpectedAttention with 4 sinks and the newest token kept; its "
                "shares are of the nearest percent and rounded per layer",
            ),
        },
    ),
    MethodEntry(
        name="cokv",
        title="CoKV",
        paper="https://arxiv.org/abs/2502.17501",
        code="https://github.com/nawei1010/CoKV",
        policy="grow",
        profile="sliced Shapley values",
        profile_kinds=("sliced Shapley value",),
        presets={
            "normalized": Preset(WindowAttention(), CoKV(), "budgets follow the sliced Shapley values, total kept"),
            "official": Preset(
                WindowAttention(window_size=8, score_dtype="model"),
                CoKV(alpha=20, exact=False),
                "adaptive_kv/monkeypatch/kv_utils.py set_cokv_size; alpha is searched per task there, 20 of 256 heads "
                "is one of its seven values; shares are floored, what passes the prompt's length is lost",
            ),
        },
    ),
    MethodEntry(
        name="razorattention",
        title="RazorAttention",
        paper="https://arxiv.org/abs/2407.15891",
        code="-",
        policy="compensate",
        profile="echo and induction scores",
        profile_kinds=("RazorAttention",),
        presets={
            "normalized": Preset(
                Streaming(),
                RetrievalStreaming(local=16, retrieval_share=0.15),
                "15 percent of the heads whole, the others 4 sinks, the newest tokens and one slot for the mean of "
                "what is dropped; at least 16 slots beside the sinks",
            ),
        },
    ),
    MethodEntry(
        name="duoattention",
        title="DuoAttention",
        paper="https://arxiv.org/abs/2410.10819",
        code="https://github.com/mit-han-lab/duo-attention",
        policy="evict_streaming",
        profile="trained gates",
        profile_kinds=("DuoAttention",),
        presets={
            "normalized": Preset(
                Streaming(num_sinks=64),
                RetrievalStreaming(local=256),
                "as many retrieval heads whole as the total pays for, the others 64 sinks and at least 256 newest "
                "tokens; below 320 slots per head it is infeasible, unless num_sinks and local are set",
            ),
        },
    ),
)
