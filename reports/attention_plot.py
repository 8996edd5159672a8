"""Attention around the token that is being emitted, a panel per KV head.

Reads the rows of `python -m suite.embedded.where_heads_look`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from reports.labels import COLOURS, HIGHLIGHT
from reports.style import figure_settings, panels

Row = Mapping[str, Any]


def offset_figure(heads: Sequence[Row], offsets: Sequence[int]) -> Figure:
    """Bars of `by_offset` in percent, one for each of `offsets`; the token that is being emitted is at 0."""
    assert heads, "no head to draw"
    with figure_settings():
        figure, axes = panels(len(heads), 1.5, "Offset from the emitted token", "Attention (%)")
        for axis, head in zip(axes, heads, strict=True):
            shares = [100 * share for share in head["by_offset"]]
            axis.axvline(0, color=HIGHLIGHT, linestyle=":", linewidth=1.0)
            axis.bar(offsets, shares, width=0.9, color=COLOURS[0])
            peak = max(range(len(shares)), key=shares.__getitem__)
            axis.annotate(
                f"{offsets[peak]:+d}: {shares[peak]:.0f} %",
                (offsets[peak], shares[peak]),
                ha="center",
                va="bottom",
                fontsize=6.5,
            )
            axis.set_title(f"Layer {head['layer']}, KV head {head['kv_head']}")
            axis.set_xlim(offsets[0] - 1, offsets[-1] + 1)
            axis.set_xticks([offset for offset in offsets if offset % 10 == 0])
            axis.set_ylim(0, 115)
            axis.set_yticks(range(0, 101, 25))
        axes[0].annotate(
            "emitted\ntoken", (0, 60), xytext=(-1, 60), ha="right", va="center", fontsize=6, color=HIGHLIGHT
        )
    return figure
