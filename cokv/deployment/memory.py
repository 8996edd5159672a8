"""What a compressed cache holds, in slots and bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheMemory:
    """KV slots and bytes over all rows, layers with a budget and KV heads."""

    tokens_read: int  # slots that a full cache would hold
    tokens_held: int  # slots in use, a compensation token included
    full_bytes: int  # of K and V of all tokens read, in the cache's dtype
    held_bytes: int  # on the device: K and V of the tokens held, with notes, digests, scales and indices
    slack_bytes: int  # allocated on the device beyond that, room for tokens to come
    host_bytes: int  # pages in CPU memory

    def __str__(self) -> str:
        share = self.held_bytes / self.full_bytes if self.full_bytes else 0.0
        text = (
            f"{self.tokens_held:,} of {self.tokens_read:,} KV slots; {_mib(self.held_bytes)} of "
            f"{_mib(self.full_bytes)} ({share:.1%}), slack {_mib(self.slack_bytes)}"
        )
        return text + (f", in CPU memory {_mib(self.host_bytes)}" if self.host_bytes else "")


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.2f} MiB"
