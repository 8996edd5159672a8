"""Methods that change how tokens are stored: in CPU memory, in fewer bits, or with fewer key channels."""

from __future__ import annotations

from functools import partial

from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall
from cokv.methods.allocators.uniform import Uniform
from cokv.methods.method import Method
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.methods.table.owners import PRUNED, QUANTIZED, WINDOW

KIVI = partial(
    Method, paper="https://arxiv.org/abs/2402.02750", code="https://github.com/jy-yuan/KIVI", owners=QUANTIZED
)
THINK = partial(
    Method,
    paper="https://arxiv.org/abs/2407.21018",
    code="https://github.com/SalesforceAIResearch/ThinK",
    owners=PRUNED,
)

STORED: tuple[Method, ...] = (
    Method(
        "full",
        "Full",
        paper="-",
        note="keeps every token, whatever the budget",
        presets={
            "official": {
                "note": "the same as normalized",
            },
        },
    ),
    Method(
        "arkvale",
        "ArkVale",
        paper="https://openreview.net/forum?id=4oAt5L4lYe",
        code="https://github.com/pku-liang/ArkVale",
        policy=Recall(),
        note=(
            "every page stays in CPU memory; those with the best digests lie within the budget, anew "
            "at each step; the budget is at least four pages"
        ),
    ),
    KIVI(
        "kivi2",
        "KIVI, 2 bit",
        policy=Quantize(),
        note="every token in 2 bits, the newest in full precision",
    ),
    KIVI(
        "kivi4",
        "KIVI, 4 bit",
        policy=Quantize(bits=4),
        note="every token in 4 bits, the newest in full precision",
    ),
    KIVI(
        "kivi8",
        "KIVI, 8 bit",
        policy=Quantize(bits=8),
        note="every token in 8 bits, the newest in full precision",
    ),
    KIVI(
        "kivi_by_score",
        "KIVI, bits by score",
        policy=Quantize(bits=3, split="scores"),
        profile="sliced Shapley values",
        profile_kinds=("sliced Shapley value", "HeadKV"),
        ours=True,
        note="the best-scored half of the heads in 4 bits, the others in 2",
    ),
    KIVI(
        "kivi_at_random",
        "KIVI, bits at random",
        policy=Quantize(bits=3, split="random"),
        ours=True,
        note="half of the heads, drawn at random, in 4 bits, the others in 2",
    ),
    KIVI(
        "snapkv_kivi4",
        "SnapKV with KIVI, 4 bit",
        scorer=WindowAttention(),
        allocator=Uniform(),
        policy=Quantize(bits=4, residual=32),
        ours=True,
        note="the tokens that snapkv keeps, in 4 bits; the newest, as many as its window, in full precision",
        owners={**QUANTIZED, **WINDOW},
        coincides={"snapkv": "always, in fewer bits"},
    ),
    THINK(
        "think",
        "ThinK",
        policy=PruneChannels(),
        note="every token; keys lose the `pruned` share of their channels in all but the newest tokens",
    ),
    THINK(
        "snapkv_think",
        "SnapKV with ThinK",
        scorer=WindowAttention(),
        allocator=Uniform(),
        policy=PruneChannels(),
        note="the tokens that snapkv keeps; keys lose the `pruned` share of their channels in all but the newest",
        owners={**PRUNED, **WINDOW},
        coincides={"snapkv": "always, with fewer key channels", "snapkv_kivi4": "always, stored in another way"},
    ),
)
