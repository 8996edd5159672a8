"""KIVI: older tokens in 2, 4 or 8 bits, keys per channel and values per token, the newest in full precision.

KIVI, arXiv 2402.02750; released in jy-yuan/KIVI, models/llama_kivi.py and quant/new_pack.py. Keys have channels of
unlike size, so a group is one channel of `group` consecutive stored tokens; a value's group is `group` channels of one
token. New tokens enter a residual in full precision; when it holds more than `residual`, its oldest `group` tokens are
quantized together. Tokens are those that the selection keeps: quantization and selection compose.

16 bits means: left as it is, whatever the model's dtype. Smallest value and step of a group are in the model's dtype.

A stored number is off by at most half a step s of its group and the rounding of the dtype, see packing.py. Through
attention, where that rounding is small (float32): with e the largest over tokens of scaling * sum_d |q_d| s_d / 2, the
weights differ by at most exp(2e) - 1 in total, so an output channel by at most half a step of its values plus
(exp(2e) - 1) max |v|.

Differs: the released code quantizes all keys of a full residual at once and values one by one, so its residual holds 0
to `residual` keys but always `residual` values; here both leave together, `group` at a time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from cokv.cache.policies.base import Policy
from cokv.cache.policies.packing import WIDTHS
from cokv.types import CokvError, FloatArray, HeadScores, IntArray

AS_IT_IS = 16
INDEX_BYTES = 8  # per group: where it lies, int64
Bits = int | tuple[tuple[int, ...], ...]
SPLITS = ("even", "scores", "random")


@dataclass(frozen=True)
class Quantize(Policy):
    """`bits`: one number, or one per (layer, KV head).

    split: how heads come to their bits when the policy is bound. "even": all have `bits`; "scores": the mean is at most
    `bits`, and the heads with the best scores of the profile have more; "random": the same, drawn with `seed`.
    """

    does = "pack older tokens into a few bits"

    bits: Bits | float = 2
    group: int = 32
    residual: int = 128
    split: str = "even"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise CokvError(f"split is {self.split!r}; expected one of {', '.join(SPLITS)}")
        if self.split == "even":
            for bits in self.bits if isinstance(self.bits, tuple) else ((self.bits,),):
                for width in bits:
                    if width not in (*WIDTHS, AS_IT_IS):
                        raise CokvError(
                            f"keys and values in {width!r} bits; expected 2, 4, 8, or 16 for leaving them as they are"
                        )
        if self.group < 1 or self.residual < 0:
            raise CokvError(
                f"groups of {self.group} tokens beside a residual of {self.residual}; expected groups of at least one "
                "token, and no negative residual"
            )

    def bind(self, slots: int | None, heads: tuple[int, int], profile: Any = None) -> Self:
        if self.split == "even":
            return self
        assert not isinstance(self.bits, tuple)
        if self.split == "random":
            return replace(self, bits=bits_at_random(*heads, self.bits, self.seed), split="even")
        if profile is None:
            raise CokvError(
                "bits by head score need head scores and got none; compute them on this model or load a file"
            )
        return replace(self, bits=bits_by_score(profile, self.bits), split="even")

    def at_layer(self, place: int, num_layers: int) -> Self:
        if not isinstance(self.bits, tuple):
            return self
        if len(self.bits) != num_layers:
            raise CokvError(
                f"bits are given for {len(self.bits)} layers, the model has {num_layers}; give bits for this model"
            )
        return replace(self, bits=(self.bits[place],))

    def of_heads(self, num_kv_heads: int) -> tuple[int, ...]:
        """Bits of each KV head of one layer, see `at_layer`."""
        bits = self.bits[0] if isinstance(self.bits, tuple) else (int(self.bits),) * num_kv_heads
        if len(bits) != num_kv_heads:
            raise CokvError(
                f"bits are given for {len(bits)} KV heads, the model has {num_kv_heads}; give bits for this model"
            )
        return bits

    def groups(self, tokens: int) -> int:
        """How many groups of a head with so many tokens are quantized."""
        return min(max(0, math.ceil((tokens - self.residual) / self.group)), tokens // self.group)

    def channels(self, head_dim: int) -> int:
        """Channels in a value's group: `group`, or all of them where it does not divide the head's."""
        return self.group if head_dim % self.group == 0 else head_dim

    def head_bytes(self, tokens: int, bits: int, head_dim: int, itemsize: int) -> int:
        """What a head with so many tokens takes, of a model whose numbers have `itemsize` bytes: tokens in full
        precision; codes, smallest values and steps of the others; and where each of their groups lies.
        """
        full = 2 * head_dim * itemsize
        if bits == AS_IT_IS:
            return tokens * full
        groups = self.groups(tokens)
        keys = head_dim * (math.ceil(self.group * bits / 8) + 2 * itemsize)
        channels = self.channels(head_dim)
        values = self.group * (head_dim // channels) * (math.ceil(channels * bits / 8) + 2 * itemsize)
        return groups * (keys + values + INDEX_BYTES) + (tokens - groups * self.group) * full


def bits_by_score(scores: HeadScores | FloatArray, average: float, widths: Sequence[int] = WIDTHS) -> Bits:
    """Bits per (layer, KV head) whose mean is at most `average`: the best-scored heads get the wider of two widths.

    The two are the neighbours of `average` among `widths`, so that as many heads as possible get the wider one. Ties go
    to the lower index. With SSV or HeadKV scores this is a split by head importance; see `bits_at_random`.
    """
    values = scores.values if isinstance(scores, HeadScores) else np.asarray(scores, dtype=np.float64)
    allowed = sorted({*widths})
    if not allowed[0] <= average <= allowed[-1]:
        raise CokvError(f"an average of {average} bits; expected {allowed[0]} to {allowed[-1]}, the widths there are")
    low = max(w for w in allowed if w <= average)
    high = min((w for w in allowed if w > average), default=low)
    count = 0 if high == low else math.floor((average - low) * values.size / (high - low) + 1e-9)
    best = np.argsort(-values.reshape(-1), kind="stable")[:count]
    bits: IntArray = np.full(values.size, low, dtype=np.int64)
    bits[best] = high
    return tuple(tuple(int(b) for b in layer) for layer in bits.reshape(values.shape))


def bits_at_random(num_layers: int, num_kv_heads: int, average: float, seed: int) -> Bits:
    """The same numbers of heads with each width, drawn at random: what a split by score is compared with."""
    return bits_by_score(np.random.default_rng(seed).random((num_layers, num_kv_heads)), average)
