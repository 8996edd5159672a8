"""Families of methods, in the order in which tables list them: by what decides which tokens stay, never by score.

A method that is in none of them, such as a plugin, comes after all.
"""

from __future__ import annotations

FAMILIES: dict[str, tuple[str, ...]] = {
    "full cache": ("full",),
    "sinks and newest tokens": ("streamingllm",),
    "eviction while decoding": ("h2o", "scissorhands", "tova", "fastgen"),
    "scores from the window or the keys": ("snapkv", "criticalkv", "knorm", "keydiff", "expectedattention", "kvzip"),
    "budgets per layer or head, from the prompt": ("pyramidkv", "adakv", "cake"),
    "budgets per head, from a profile": ("headkv_r", "headkv_r2", "lukv", "cokv"),
    "whole heads": ("razorattention", "duoattention"),
    "pages": ("arkvale",),
    "channels and bits": (
        "think", "snapkv_think", "kivi8", "kivi4", "kivi2", "snapkv_kivi4", "kivi_by_score", "kivi_at_random",
    ),
}  # fmt: skip
OTHERS = "others"
_PLACES = {name: place for place, names in enumerate(FAMILIES.values()) for name in names}


def family(method: str) -> str:
    """The family of a method, by its name."""
    return next((title for title, names in FAMILIES.items() if method in names), OTHERS)


def family_place(method: str) -> int:
    """Where its family stands; after all of them for a method of none."""
    return _PLACES.get(method, len(FAMILIES))
