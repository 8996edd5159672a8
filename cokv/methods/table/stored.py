"""Methods that store tokens in another way: elsewhere, in fewer bits, or with keys of fewer channels."""

from __future__ import annotations

from cokv.methods.allocators import Allocator
from cokv.methods.allocators.uniform import Uniform
from cokv.methods.entries import MethodEntry, Preset
from cokv.methods.scorers import Scorer
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.types import JSON


def _kivi(
    name: str,
    title: str,
    bits: float,
    split: str,
    note: str,
    scorer: Scorer | None = None,
    allocator: Allocator | None = None,
    residual: int = 128,
) -> MethodEntry:
    """What it saves is in the bytes; tokens are those of the scorer and the allocator, or all."""
    decoding = (("bits", bits), ("split", split), ("seed", 0), ("group", 32), ("residual", residual))
    scored = split == "scores"
    return MethodEntry(
        name=name,
        title=title,
        paper="https://arxiv.org/abs/2402.02750",
        code="https://github.com/jy-yuan/KIVI",
        policy="quantize",
        profile="sliced Shapley values" if scored else "",
        profile_kinds=("sliced Shapley value", "HeadKV") if scored else (),
        presets={"normalized": Preset(scorer, allocator, note, decoding=decoding)},
    )


def _think(
    name: str,
    title: str,
    note: str,
    scorer: Scorer | None = None,
    allocator: Allocator | None = None,
    **decoding: JSON,
) -> MethodEntry:
    """What it saves is in the bytes; tokens are those of the scorer and the allocator, or all."""
    told = {"pruned": 0.4, **decoding, "recent": 32}
    return MethodEntry(
        name=name,
        title=title,
        paper="https://arxiv.org/abs/2407.21018",
        code="https://github.com/SalesforceAIResearch/ThinK",
        policy="prune_channels",
        presets={"normalized": Preset(scorer, allocator, note, decoding=tuple(told.items()))},
    )


STORED: tuple[MethodEntry, ...] = (
    MethodEntry(
        name="full",
        title="Full",
        paper="-",
        code="-",
        policy="grow",
        presets={
            "normalized": Preset(None, None, "keeps every token, whatever the budget"),
            "official": Preset(None, None, "the same as normalized"),
        },
    ),
    MethodEntry(
        name="arkvale",
        title="ArkVale",
        paper="https://openreview.net/forum?id=4oAt5L4lYe",
        code="https://github.com/pku-liang/ArkVale",
        policy="recall",
        presets={
            "normalized": Preset(
                None,
                None,
                "every page stays in CPU memory; those with the best digests lie within the budget, anew at each step; "
                "the budget is at least four pages",
                decoding=(("page", 32),),
            ),
        },
    ),
    _kivi("kivi2", "KIVI 2 bit", 2, "even", "every token in 2 bits, the newest in full precision"),
    _kivi("kivi4", "KIVI 4 bit", 4, "even", "every token in 4 bits, the newest in full precision"),
    _kivi("kivi8", "KIVI 8 bit", 8, "even", "every token in 8 bits, the newest in full precision"),
    _kivi(
        "kivi_by_score",
        "KIVI by score",
        3,
        "scores",
        "the best-scored half of the heads in 4 bits, the others in 2",
    ),
    _kivi(
        "kivi_at_random",
        "KIVI at random",
        3,
        "random",
        "half of the heads, drawn at random, in 4 bits, the others in 2",
    ),
    _kivi(
        "snapkv_kivi4",
        "SnapKV with KIVI 4 bit",
        4,
        "even",
        "the tokens that snapkv keeps, in 4 bits; the newest, as many as its window, in full precision",
        WindowAttention(),
        Uniform(),
        residual=32,
    ),
    _think(
        "think",
        "ThinK",
        "every token; keys lose the `pruned` share of their channels in all but the newest tokens",
        window_size=32,
    ),
    _think(
        "snapkv_think",
        "SnapKV with ThinK",
        "the tokens that snapkv keeps; keys lose the `pruned` share of their channels in all but the newest",
        WindowAttention(),
        Uniform(),
    ),
)
