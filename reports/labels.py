"""How things are called and drawn: one name, place and colour per method, wherever it appears."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from reports.records import FULL, Variant, variant_of

# The papers' spelling, in the order in which tables list them. Any other method comes after, under its own name.
SPELLING = {
    "full": "Full",
    "streamingllm": "StreamingLLM",
    "h2o": "H2O",
    "scissorhands": "Scissorhands",
    "tova": "TOVA",
    "knorm": "K-norm",
    "keydiff": "KeyDiff",
    "expectedattention": "ExpectedAttention",
    "razorattention": "RazorAttention",
    "duoattention": "DuoAttention",
    "fastgen": "FastGen",
    "arkvale": "ArkVale",
    "kivi8": "KIVI, 8 bit",
    "kivi4": "KIVI, 4 bit",
    "kivi2": "KIVI, 2 bit",
    "kivibyscore": "KIVI, bits by score",
    "kiviatrandom": "KIVI, bits at random",
    "snapkv": "SnapKV",
    "pyramidkv": "PyramidKV",
    "adakv": "AdaKV",
    "criticalkv": "CriticalKV",
    "cake": "CAKE",
    "kvzip": "KVzip",
    "think": "ThinK",
    "snapkvthink": "SnapKV with ThinK",
    "snapkvkivi4": "SnapKV with KIVI, 4 bit",
    "headkvr": "HeadKV-R",
    "headkvr2": "HeadKV-R2",
    "lukv": "LU-KV",
    "cokv": "CoKV",
}

# Okabe & Ito's palette without its yellow (too faint on paper) and black (kept for the full cache).
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#7F7F7F")
HIGHLIGHT = "#D55E00"  # CoKV in every plot
MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">", "*", "p")
DASHES = ("-", "--", "-.", ":")


def _plain(method: str) -> str:
    return "".join(c for c in method.lower() if c.isalnum())


def method_name(method: str) -> str:
    return SPELLING.get(_plain(method), method)


def variant_order(variant: Variant) -> tuple[Any, ...]:
    known = list(SPELLING)
    plain = _plain(variant.method)
    return (known.index(plain) if plain in known else len(known), variant)


def is_full(variant: Variant) -> bool:
    return variant.method == FULL


class Labels:
    """Row labels of one run. A preset or protocol is named only where the run holds more than one."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.variants = sorted({variant_of(row) for row in rows}, key=variant_order)
        compressed = [v for v in self.variants if not is_full(v)]
        self._query = len({v.query_aware for v in compressed}) > 1
        self._first = len({v.first_token for v in compressed}) > 1
        self._styles: dict[Variant, dict[str, Any]] = {}
        plain = [v for v in compressed if _plain(v.method) != "cokv"]
        for place, variant in enumerate(plain):
            self._styles[variant] = {
                "color": COLOURS[place % len(COLOURS)],
                "marker": MARKERS[place % len(MARKERS)],
                "linestyle": DASHES[(place // len(COLOURS)) % len(DASHES)],
            }
        for place, variant in enumerate(v for v in compressed if _plain(v.method) == "cokv"):
            self._styles[variant] = {"color": HIGHLIGHT, "marker": "D", "linestyle": DASHES[place % len(DASHES)]}

    def name(self, variant: Variant) -> str:
        if is_full(variant) and sum(map(is_full, self.variants)) == 1:
            return "Full"
        extra = [] if variant.preset == "normalized" else [variant.preset]
        if self._query:
            extra.append("question seen" if variant.query_aware else "question unseen")
        if self._first:
            extra.append(f"first token {variant.first_token}")
        return method_name(variant.method) + (f" ({', '.join(extra)})" if extra else "")

    def style(self, variant: Variant) -> dict[str, Any]:
        """Colour, marker and line of a compressed variant."""
        return self._styles[variant]
