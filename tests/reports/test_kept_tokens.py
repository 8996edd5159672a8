"""The picture of one prompt under several methods says what is in it, and what is not."""

import numpy as np
import pytest

from reports.kept_tokens import Kept, kept_figure


def panel(method: str, share: float, same: bool = True, stored: str = "") -> Kept:
    return Kept(method, np.full((4, 10), share), np.full((2, 2), 5), "7 $ 8\n" + "x" * 99, same, stored)


@pytest.fixture
def figure():
    panels = [panel("snapkv", 0.5, same=False), panel("kivi2", 1.0, stored="in 2 bits")]
    return kept_figure(panels, 10, 5, "7 apples", {"cokv": "needs scores", "lukv": "needs curves " + "and more " * 40})


def test_titles_say_answer_bits_and_agreement(figure):
    snapkv, _, kivi, _ = (axis.get_title(loc="left") for axis in figure.axes)
    assert snapkv.startswith(r"snapkv: 7 \$ 8 x") and snapkv.endswith("… (not as the full cache)")
    assert kivi.startswith("kivi2 (in 2 bits): ") and kivi.endswith("(as the full cache)")


def test_the_legend_explains_shades_bars_and_line(figure):
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "The full cache answers: 7 apples"
    words = [text.get_text() for text in legend.get_texts()]
    assert words == ["none kept", "half of these tokens", "all kept", "slots of a head", "budget: 5 KV slots per head"]


def test_methods_that_could_not_run_are_named(figure):
    lines = figure.get_supxlabel().splitlines()
    assert lines[:2] == ["Could not run:", "  cokv: needs scores"] and len(lines) > 4 and max(map(len, lines)) <= 150
    assert kept_figure([panel("snapkv", 0.5)], 10, 5, "", {}).get_supxlabel() == ""


def test_a_panel_with_nothing_to_see_is_low(figure):
    figure.draw_without_rendering()
    snapkv, _, kivi, _ = (axis.get_position().height for axis in figure.axes)
    assert kivi < snapkv / 2
