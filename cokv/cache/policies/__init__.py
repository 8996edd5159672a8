"""What happens to a row's cache while it decodes: the rules, each a frozen dataclass.

growth.py        Grow; EvictOldest (StreamingLLM, DuoAttention's streaming heads)
h2o.py, scissorhands.py, tova.py   eviction by attention, under the protocol of evict.py
fastgen.py, cake.py   the same, in heads that have limits of their own
compensate.py    RazorAttention's compensation token
quantize.py, packing.py, prune_channels.py, recall.py   tokens in fewer bits, keys of fewer channels, pages elsewhere
"""

from __future__ import annotations

from cokv.cache.policies.compensate import Compensate
from cokv.cache.policies.growth import EvictOldest, Grow
from cokv.cache.policies.protocol import EvictsByAttention
from cokv.cache.policies.prune_channels import PruneChannels
from cokv.cache.policies.quantize import Quantize
from cokv.cache.policies.recall import Recall

Policy = Grow | EvictOldest | EvictsByAttention | Compensate | Quantize | PruneChannels | Recall


def at_layer(policy: Policy, place: int, num_layers: int) -> Policy:
    """What a policy means for the full-attention layer number `place` of `num_layers`."""
    return policy.at_layer(place, num_layers) if isinstance(policy, Quantize) else policy


__all__ = [
    "Compensate",
    "EvictOldest",
    "EvictsByAttention",
    "Grow",
    "Policy",
    "PruneChannels",
    "Quantize",
    "Recall",
    "at_layer",
]
