"""What watches over the segments of a flat store, by the policies of its rows: made once, when the store is filled."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cokv.cache.attention.host_bounds import Bounds
from cokv.cache.policies.base import Policy
from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldest
from cokv.cache.policies.protocol import GROWS, EvictsByAttention, LimitsHeads
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.attention_evictor import AttentionEvictor
from cokv.cache.storage.compensated import CompensationToken, mean_of_dropped
from cokv.cache.storage.evictors import OldestEvictor
from cokv.cache.storage.rows import Kept, segments_of, view_of
from cokv.model.device import sent
from cokv.types import CokvError

Evictor = OldestEvictor | AttentionEvictor


def evict_oldest(
    policies: Sequence[Policy], bounds: Bounds, seq_lens: Sequence[int], heads: int, device: torch.device
) -> list[Evictor]:
    """bounds: of the store's segments, exact still; what is watched is noted there. seq_lens: of each row's prompt."""
    watched = []
    lengths = bounds.lengths
    for row, policy in enumerate(policies):
        for segment in range(row * heads, (row + 1) * heads) if isinstance(policy, EvictOldest) else ():
            assert isinstance(policy, EvictOldest)
            if policy.limit is not None and lengths[segment] > policy.limit:
                raise CokvError(
                    f"a selection holds {lengths[segment]} tokens in a head, more than its eviction limit; "
                    f"select at most {policy.limit} per head"
                )
            if policy.limit is not None or lengths[segment] < seq_lens[row]:
                watched.append((segment, policy.limit or max(lengths[segment], 1), policy.num_sinks))
    for segment, limit, _ in watched:
        _cap(bounds, segment, limit)
    if not watched:
        return []
    evictor = OldestEvictor(*sent(torch.tensor(watched), device).unbind(1))
    evictor.wait = max(limit - lengths[segment] for segment, limit, _ in watched)
    return [evictor]


def _cap(bounds: Bounds, segment: int, limit: int) -> None:
    """A segment is watched: it has one more while a token is read, or a token of the prompt is still expected."""
    bounds.cap(segment, max(limit, 1) + 1)


def compensate(
    policies: Sequence[Policy], bounds: Bounds, views: Sequence[PrefillLayer], kept: Kept, stored: Kept
) -> list[Evictor]:
    """kept, stored: with and without the token that stands for those that were dropped."""
    watched, means, heads = [], [], views[0].keys.shape[0]
    for row, policy in enumerate(policies):
        view = view_of(views, row)
        for head, rest in enumerate(stored[row]) if isinstance(policy, Compensate) else ():
            assert isinstance(policy, Compensate)
            if rest.numel() < kept[row][head].numel():
                dropped = view.keys.shape[1] - rest.numel()
                watched.append((row * heads + head, rest.numel(), policy.num_sinks, dropped))
                means.append([mean_of_dropped(tokens[head], rest) for tokens in (view.keys, view.values)])
    for segment, limit, *_ in watched:
        _cap(bounds, segment, limit)
    if not watched:
        return []
    segments, limits, sinks, counts = torch.tensor(watched, device=views[0].keys.device).unbind(1)
    keys, values = (torch.stack(part) for part in zip(*means, strict=True))
    return [CompensationToken(segments, limits, sinks, keys, values, counts.float())]


def evict_by_attention(
    rule: EvictsByAttention,
    policies: Sequence[Policy],
    bounds: Bounds,
    views: Sequence[PrefillLayer],
    whole: Kept,
    stored: Kept,
) -> list[Evictor]:
    """Of rows that follow this rule. `whole`: with what is unread; a head of limits of its own has a slot for it."""
    heads, device = views[0].keys.shape[0], views[0].keys.device
    rows = [row for row, policy in enumerate(policies) if policy == rule]
    seeds = [rule.seed(view) for view in views] if len(views) == 1 else [rule.seed(views[row]) for row in rows]
    positions = [p for row in rows for p in stored[row]]
    memory = [
        seeds[place if len(views) > 1 else 0][head, p.to(device)]
        for place, row in enumerate(rows)
        for head, p in enumerate(stored[row])
    ]
    segments = segments_of(torch.tensor(rows), heads)
    next_positions = torch.tensor([view_of(views, row).keys.shape[1] for row in rows]).repeat_interleave(heads)
    if not isinstance(rule, LimitsHeads):
        limits = torch.full_like(segments, rule.slots)
        parts = [torch.arange(len(segments))]
    else:
        lens = [view_of(views, row).keys.shape[1] + view_of(views, row).unread for row in rows]
        slots = torch.tensor([[p.numel() for p in whole[row]] for row in rows])
        limits = torch.cat([rule.limits(row, seq_len) for row, seq_len in zip(slots, lens, strict=True)])
        # Columns are as wide as their longest segment: those of like size lie together.
        sizes = torch.tensor([limit.bit_length() for limit in limits.tolist()])
        parts = [((sizes == size) & (limits != GROWS)).nonzero()[:, 0] for size in sizes.unique()]
    evictors: list[Evictor] = []
    for part in (part for part in parts if len(part)):
        some = part.tolist()
        for segment, limit in zip(segments[part].tolist(), limits[part].tolist(), strict=True):
            _cap(bounds, segment, limit)
        evictors.append(
            AttentionEvictor(
                rule,
                segments[part].to(device),
                [positions[place] for place in some],
                [memory[place] for place in some],
                limits[part],
                next_positions[part],
                1 if isinstance(rule, LimitsHeads) else heads,
            )
        )
    return evictors
