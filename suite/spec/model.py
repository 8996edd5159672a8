"""The model and the protocol: [model] and [protocol]."""

from __future__ import annotations

from typing import Literal

from cokv.decode.session import FirstToken
from suite.spec.part import Count, Part


class ModelSpec(Part):
    """Which model: `embedded`, a known one, a local folder, a `.gguf` file, or a hub name with a pinned revision.

    positions: at least so many, where a released protocol lets answers go past those that a config states.
    """

    name: str = "embedded"
    revision: str | None = None
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    positions: Count | None = None


class ProtocolSpec(Part):
    """The two choices that affect every score.

    query_aware: whether the prompt includes the question when tokens are selected; if not, the question is read on the
    compressed cache. first_token: where a query-aware prompt's first answer token comes from: the uncompressed
    `prefill`, as in released codes, or the last prompt token run again on the `compressed` cache.
    """

    query_aware: bool = True
    first_token: FirstToken = "prefill"
