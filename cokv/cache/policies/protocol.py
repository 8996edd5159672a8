"""Eviction by attention, while decoding: what such a rule must say, and how it orders tokens.

A rule remembers something of every stored token (its *memory*), is told each step's attention, and names the token that
goes when a head holds one more than its limit. Tokens are known by their positions, never by where they are stored.
A rule whose heads have limits of their own also has `limits`, one that must know what a new token says has `begun`.
All tensors here have a row per head and a column per stored token; columns without a token have position -1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeGuard, runtime_checkable

import torch

from cokv.cache.policies.base import LimitedPolicy
from cokv.types import Infeasible

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer


@dataclass(frozen=True)
class Known:
    """What is known of the columns on the host, so that a rule need not look: a step of full heads can be quicker."""

    even: bool = False  # every column of every head holds a token
    drops: int | None = None  # every head is full; so many tokens it has dropped before, one a step; None: unknown
    consecutive: int = 0  # so many of the newest tokens are surely held, as far as the rule itself spares them
    read: int = 0  # at least so many tokens, prompt and answer, the newest included
    next: torch.Tensor | None = None  # int32 [heads, 1], the position after the newest token


NOTHING = Known()


@dataclass
class FullHeads:
    """Notes of heads that all drop a token in this step, and what has been attended. Tensors are changed in place."""

    weights: torch.Tensor  # float32 [segments of the store, group_size, columns or more]
    segments: torch.Tensor  # int64 [heads], which of the store's each is
    memory: torch.Tensor  # [heads, columns, numbers]
    positions: torch.Tensor  # int32 [heads, columns], -1 where no token is
    next: torch.Tensor  # int32 [heads], position of the token that is being read; is counted up
    hole: torch.Tensor  # int64 [heads], its column; becomes that of the token that is dropped
    lengths: torch.Tensor  # int64 [segments of the store], that token included; are counted down
    kinds: torch.Tensor | None  # int64 [segments of the store], kind of that token, see ReadsKinds
    together: int  # so many heads in turn are a row
    step: int  # queries since the prompt
    known: Known  # once that token has its notes


class EvictsByAttention(LimitedPolicy, ABC):
    """A frozen dataclass, one per method."""

    same_in_all_heads: ClassVar[bool] = False
    """Whether all heads of a layer drop the same tokens, so that they must start with the same ones."""

    @abstractmethod
    def seed(self, layer: PrefillLayer) -> torch.Tensor:
        """Memory of every prompt position: [num_kv_heads, seq_len, numbers]. A new token's is all zero."""

    @abstractmethod
    def update(self, memory: torch.Tensor, weights: torch.Tensor, held: torch.Tensor | None, step: int) -> None:
        """Takes one query's attention into the memory [rows, num_kv_heads, tokens, numbers], in place.

        weights float32 [rows, num_kv_heads, group_size, tokens], zero in columns without a token; held bool
        [rows, num_kv_heads, tokens], the query's own token included, None where every column has one; `step` counts the
        queries since the prompt.
        """

    @abstractmethod
    def worst(
        self, memory: torch.Tensor, positions: torch.Tensor, group_size: int, known: Known = NOTHING
    ) -> torch.Tensor:
        """The column that goes first: memory [heads, tokens, numbers], positions [heads, tokens] -> int64 [heads].

        group_size: query heads that share a KV head. Asked once after every update, for heads with room too, where the
        answer is not followed; what it learns it may note in the memory. `known` changes no answer.
        """

    def drop(self, heads: FullHeads) -> bool:
        """`update` and `worst` in one, with all that belongs to them: the new token's notes, and those of the one that
        goes. False, and nothing done, where there is no such code.
        """
        return False


GROWS = -1  # a limit that is none


@runtime_checkable
class LimitsHeads(Protocol):
    """A rule whose heads have limits of their own. No rule that drops the same in all heads."""

    def limits(self, slots: torch.Tensor, seq_len: int) -> torch.Tensor:
        """By how many tokens each head holds of a prompt of seq_len: int64 [heads]; GROWS for heads that keep all."""


@runtime_checkable
class ReadsKinds(Protocol):
    """A rule that must know what kind of token is read. The cache says which: it sees the ids of each forward pass."""

    def begun(self, kinds: torch.Tensor) -> torch.Tensor:
        """A new token's memory by its kind, see scorers/token_kinds.py: int64 [heads] -> [heads, numbers]."""


def reads_kinds(rule: object) -> TypeGuard[ReadsKinds]:
    """What `isinstance` says, which takes as long as a step of a rule: for every layer and step."""
    return hasattr(rule, "begun")


def newest(positions: torch.Tensor, count: int, known: Known = NOTHING) -> torch.Tensor:
    """Whether a token is among the `count` latest of its head, which the rule spares: bool [heads, tokens]."""
    if count == 0:
        return torch.zeros_like(positions, dtype=torch.bool)
    if known.next is not None and count <= known.consecutive:
        return positions >= known.next - count
    edge = positions.topk(min(count, positions.shape[1]), dim=1).values[:, -1:]
    return positions >= edge


def lowest(
    goodness: torch.Tensor, positions: torch.Tensor, spared: torch.Tensor | None, known: Known = NOTHING
) -> torch.Tensor:
    """Column of the least good token that is not spared, of equals the latest: int64 [heads]."""
    if not known.even:
        spared = positions < 0 if spared is None else spared | (positions < 0)
    if spared is not None:
        goodness = goodness.masked_fill(spared, torch.inf)
    ties = goodness == goodness.amin(1, keepdim=True)
    return torch.where(ties, positions, -2).argmax(1)


def check_limit(limit: int | None, least: int, why: str) -> None:
    """A policy that is not bound yet has no limit to check."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < least):
        raise Infeasible(f"a limit of {limit!r} slots per head; expected at least {least}, {why}")
