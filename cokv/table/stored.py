"""Methods that keep every token, elsewhere or in fewer bits."""

from __future__ import annotations

from cokv.entries import MethodEntry, Preset


def _kivi(name: str, title: str, bits: float, split: str, note: str) -> MethodEntry:
    """Takes no kv_budget: what it saves is in the bytes."""
    decoding = (("bits", bits), ("split", split), ("seed", 0), ("group", 32), ("residual", 128))
    scored = split == "scores"
    return MethodEntry(
        name=name,
        title=title,
        paper="https://arxiv.org/abs/2402.02750",
        code="https://github.com/jy-yuan/KIVI",
        policy="quantize",
        profile="sliced Shapley values" if scored else "",
        profile_kinds=("sliced Shapley value", "HeadKV") if scored else (),
        presets={"normalized": Preset(None, None, note, decoding=decoding)},
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
)
