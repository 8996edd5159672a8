"""Methods that also evict while decoding: each new token replaces an old one."""

from __future__ import annotations

from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.methods.allocators.cake import CakeAllocator
from cokv.methods.allocators.fastgen import FastGenAllocator
from cokv.methods.allocators.uniform import Uniform
from cokv.methods.method import Method
from cokv.methods.policies.cake import CakeEviction
from cokv.methods.policies.fastgen import FastGenEviction
from cokv.methods.policies.h2o import H2OEviction
from cokv.methods.policies.scissorhands import ScissorhandsEviction
from cokv.methods.policies.tova import TOVAEviction
from cokv.methods.scorers.accumulated_attention import AccumulatedAttention
from cokv.methods.scorers.cake import CakeScorer
from cokv.methods.scorers.fastgen import FastGenScorer
from cokv.methods.scorers.last_query import LastQuery
from cokv.methods.scorers.scissorhands import ScissorhandsScorer
from cokv.methods.scorers.streaming import Streaming
from cokv.methods.table.owners import swept

EVICTING: tuple[Method, ...] = (
    Method(
        name="streamingllm",
        title="StreamingLLM",
        paper="https://arxiv.org/abs/2309.17453",
        code="https://github.com/mit-han-lab/streaming-llm",
        scorer=Streaming(),
        allocator=Uniform(),
        policy=EvictOldest(),
        note=(
            "4 sinks and the newest tokens, after a full prefill, positions kept; no official preset: "
            "the released code evicts while it reads the prompt and renumbers positions in the cache, "
            "which is no selection"
        ),
    ),
    Method(
        name="h2o",
        title="H2O",
        paper="https://arxiv.org/abs/2306.14048",
        code="https://github.com/FMInference/H2O",
        scorer=AccumulatedAttention(),
        allocator=Uniform(),
        policy=H2OEviction(),
        note=(
            "half of each head's slots for the newest tokens, half for those with the most attention "
            "so far, prompt and answer; no official preset: the released code keeps a cache per query "
            "head"
        ),
        presets={
            "pooled": {
                "scorer": AccumulatedAttention(kernel_size=7),
                "policy": H2OEviction(kernel_size=7),
                "ours": True,
                "note": "an ablation of this project's: H2O with SnapKV's pooling, while decoding too",
            },
        },
    ),
    Method(
        name="scissorhands",
        title="Scissorhands",
        paper="https://arxiv.org/abs/2305.17118",
        scorer=ScissorhandsScorer(),
        allocator=Uniform(),
        policy=ScissorhandsEviction(),
        note=(
            "drops the tokens that most of the last 400 queries gave less than the average, queries "
            "before a token included; the newest 10 stay; no code was released"
        ),
        presets={
            "seen-only": {
                "scorer": ScissorhandsScorer(count_unseen=False),
                "policy": ScissorhandsEviction(count_unseen=False),
                "note": (
                    "the other reading of the paper's algorithm 2: only queries that saw a token count, so that nearly "
                    "all that stays are the newest tokens"
                ),
            },
        },
    ),
    Method(
        name="tova",
        title="TOVA",
        paper="https://arxiv.org/abs/2401.06104",
        code="https://github.com/schwartz-lab-NLP/TOVA",
        scorer=LastQuery(),
        allocator=Uniform(),
        policy=TOVAEviction(),
        note=(
            "what the last query attends to, the same tokens in all heads of a layer; the released "
            "code's rule at the end of the prompt"
        ),
        presets={
            "kvpress": {
                "scorer": LastQuery(keep_last=True),
                "policy": Grow(),
                "note": (
                    "kvpress/presses/tova_press.py: the newest token always stays, and nothing goes while decoding"
                ),
            },
            "pooled": {
                "scorer": LastQuery(kernel_size=7),
                "policy": TOVAEviction(kernel_size=7),
                "ours": True,
                "note": "an ablation of this project's: TOVA with SnapKV's pooling, while decoding too",
            },
        },
    ),
    Method(
        name="fastgen",
        title="FastGen",
        paper="https://arxiv.org/abs/2310.01801",
        scorer=FastGenScorer(),
        allocator=FastGenAllocator(),
        policy=FastGenEviction(),
        note=(
            "each head the cheapest of five policies that retains enough attention; the threshold is "
            "the largest that the total pays for, infeasible below 0.5 (the paper's is 0.95); heads keep "
            "their size while decoding, but those with the policy of keeping all; no code was released"
        ),
        owners={"least_threshold": "budget"},
    ),
    Method(
        name="cake",
        title="CAKE",
        paper="https://arxiv.org/abs/2503.12491",
        code="https://github.com/antgroup/cakekv",
        scorer=CakeScorer(),
        allocator=CakeAllocator(),
        policy=CakeEviction(),
        note=(
            "window attention's mean and variance; layers with spread and shifting attention get "
            "more, and keep their size while decoding; tau1 and tau2 are searched per model by the "
            "authors, 1 here; no official preset: the released code keeps the total by handing out "
            "remainders in layer order"
        ),
        owners=swept("window_size", "tau1", "tau2"),
    ),
)
