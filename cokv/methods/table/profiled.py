"""Methods with head profiles: budgets from values computed offline, per model or per task."""

from __future__ import annotations

from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldestWhereEvicted
from cokv.methods.allocators.cokv import CoKV
from cokv.methods.allocators.headkv import HeadKV
from cokv.methods.allocators.lukv import LUKV
from cokv.methods.allocators.retrieval_streaming import RetrievalStreaming
from cokv.methods.method import Method
from cokv.methods.scorers.expected_attention import ExpectedAttention
from cokv.methods.scorers.streaming import Streaming
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.methods.table.owners import WINDOW, swept

BETAS = (1.005, 1.01, 1.1, 1.2, 2, 5, 10)  # of the authors' scripts, beside their default of 1.5
COKV_WINDOW = WindowAttention(window_size=8)  # as the released codes of CoKV and HeadKV set it


def _headkv(name: str, title: str, profile: str) -> Method:
    """One rule for two profiles."""
    sweep = {
        f"beta-{beta}": {"allocator": HeadKV(beta=beta), "note": f"beta {beta}, which the authors' scripts try too"}
        for beta in BETAS
    }
    return Method(
        name=name,
        title=title,
        paper="https://arxiv.org/abs/2410.19258",
        code="https://github.com/FYYFU/HeadKV",
        scorer=COKV_WINDOW,
        allocator=HeadKV(),
        profile=profile,
        profile_kinds=("HeadKV",),
        note=f"a third of each head's budget is fixed, the rest follows {profile} (beta 1.5), total kept",
        owners=WINDOW,
        presets={
            "official": {
                "scorer": WindowAttention(window_size=8, score_dtype="model"),
                "allocator": HeadKV(exact=False),
                "note": (
                    "the KV-head form in nawei1010/CoKV, adaptive_kv/monkeypatch/kv_utils.py "
                    "set_headkv_size; shares are floored"
                ),
            },
            **sweep,
        },
    )


PROFILED: tuple[Method, ...] = (
    _headkv("headkv_r", "HeadKV-R", "retrieval scores"),
    _headkv("headkv_r2", "HeadKV-R2", "retrieval-reasoning scores"),
    Method(
        name="lukv",
        title="LU-KV",
        paper="https://arxiv.org/abs/2602.08585",
        code="https://github.com/NVIDIA/kvpress",
        scorer=WindowAttention(),
        allocator=LUKV(),
        profile="keep-ratio curves",
        profile_kinds=("LU-KV",),
        note="each head's share is looked up in curves made offline, total kept",
        owners=WINDOW,
        presets={
            "kvpress": {
                "scorer": ExpectedAttention(epsilon=0.02, recent=1),
                "note": (
                    "kvpress/presses/lukv_press.py: over ExpectedAttention with 4 sinks and the "
                    "newest token kept; its shares are of the nearest percent and rounded per layer"
                ),
            },
        },
    ),
    Method(
        name="cokv",
        title="CoKV",
        paper="https://arxiv.org/abs/2502.17501",
        code="https://github.com/nawei1010/CoKV",
        scorer=COKV_WINDOW,
        allocator=CoKV(),
        profile="sliced Shapley values",
        profile_kinds=("sliced Shapley value",),
        note="budgets follow the sliced Shapley values, total kept",
        owners={**WINDOW, **swept("alpha", "alpha_share", "normalization")},
        presets={
            "official": {
                "scorer": WindowAttention(window_size=8, score_dtype="model"),
                "allocator": CoKV(alpha=20, exact=False),
                "note": (
                    "adaptive_kv/monkeypatch/kv_utils.py set_cokv_size; alpha is searched per task "
                    "there, 20 of 256 heads is one of its seven values; shares are floored, what "
                    "passes the prompt's length is lost"
                ),
            },
        },
    ),
    Method(
        name="razorattention",
        title="RazorAttention",
        paper="https://arxiv.org/abs/2407.15891",
        scorer=Streaming(),
        allocator=RetrievalStreaming(local=16, retrieval_share=0.15),
        policy=Compensate(),
        profile="echo and induction scores",
        profile_kinds=("RazorAttention",),
        note=(
            "15 percent of the heads whole, the others 4 sinks, the newest tokens and one slot for "
            "the mean of what is dropped; at least 16 slots beside the sinks; no code was released"
        ),
        owners={"local": "budget"},
    ),
    Method(
        name="duoattention",
        title="DuoAttention",
        paper="https://arxiv.org/abs/2410.10819",
        code="https://github.com/mit-han-lab/duo-attention",
        scorer=Streaming(num_sinks=64),
        allocator=RetrievalStreaming(),
        policy=EvictOldestWhereEvicted(num_sinks=64),
        profile="trained gates",
        profile_kinds=("DuoAttention",),
        note=(
            "as many retrieval heads whole as the total pays for, the others 64 sinks and at least 256 newest tokens; "
            "infeasible where the total does not pay for one whole head, as below 320 slots per head"
        ),
    ),
)
