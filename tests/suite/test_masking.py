"""Head-masking curves on games with known answers: who is masked, what that costs, and how sure that is."""

import json
from itertools import pairwise

import numpy as np
import pytest

from cokv.types import HeadScores
from reports.intervals import estimate
from suite.errors import SuiteError
from suite.heads.masking import MaskingSpec, curves, cuts

N = 12


def additive(coalitions: np.ndarray, samples: int = 8, noise: float = 0.0) -> np.ndarray:
    """Head i is worth i; utility is the kept share of all worth, per sample."""
    worth = np.arange(N) / np.arange(N).sum()
    rng = np.random.default_rng(0)
    return np.clip((coalitions @ worth)[:, None] + noise * rng.normal(size=samples), 0, 1)


def scores(values=None) -> HeadScores:
    return HeadScores(np.arange(float(N)).reshape(3, 4) if values is None else np.array(values).reshape(3, 4))


def line(curve: dict, cut: str) -> list[float]:
    return [p["score"] for p in curve["points"] if p["cut"] == cut]


def test_a_cut_masks_k_heads_exactly_and_official_one_more_from_the_top():
    values = np.random.default_rng(1).permutation(N).astype(float)
    order = np.argsort(-values)
    ours = {(c.kind, c.heads): c.masked for c in cuts(values, MaskingSpec(draws=1))}
    official = {(c.kind, c.heads): c.masked for c in cuts(values, MaskingSpec(draws=1, preset="official"))}
    for k in range(N + 1):
        assert set(np.flatnonzero(ours["top", k])) == set(order[:k])
        assert set(np.flatnonzero(ours["bottom", k])) == set(order[N - k :])
        assert ours["random", k].sum() == k
    for k in range(1, N):
        assert set(np.flatnonzero(official["top", k])) == set(order[: k + 1]), "k + 1, as released"
        assert set(np.flatnonzero(official["bottom", k])) == set(order[N - k :])
    assert ("top", 0) not in official and ("top", N) not in official


def released(values: list[float], flag: str, k_th: int) -> list[bool]:
    """cokv_mask of the released code, on a flat list."""
    rising = sorted(values)
    if flag == "top":
        border = rising[len(values) - k_th - 1]
        return [value >= border for value in values]
    border = rising[k_th - 1]
    return [value <= border for value in values]


@pytest.mark.parametrize("values", [range(N), [0.5] * N, [0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 9]])
def test_official_cuts_are_the_released_masks_ties_included(values):
    values = [float(value) for value in values]
    for cut in cuts(np.array(values), MaskingSpec(draws=1, preset="official")):
        if cut.kind != "random":
            flag = "top" if cut.kind == "top" else "low"
            assert cut.masked.tolist() == released(values, flag, cut.heads)


def test_ties_are_cut_in_order_and_never_twice():
    cut_sets = cuts(np.zeros(N), MaskingSpec(draws=1))
    for k in (1, 5, 11):
        top, bottom = (next(c.masked for c in cut_sets if (c.kind, c.heads) == (kind, k)) for kind in ("top", "bottom"))
        assert top[:k].all() and top.sum() == k
        assert bottom[N - k :].all() and bottom.sum() == k


def test_random_orders_are_nested_and_seeded():
    def orders(seed):
        return [c.masked for c in cuts(np.arange(float(N)), MaskingSpec(draws=1, seed=seed)) if c.kind == "random"]

    first = orders(0)
    for fewer, more in pairwise(first):
        assert (more >= fewer).all() and more.sum() == fewer.sum() + 1
    assert all((a == b).all() for a, b in zip(first, orders(0), strict=True))
    assert any((a != b).any() for a, b in zip(first, orders(1), strict=True))


def test_curves_of_an_additive_game_are_its_sums():
    curve = curves(scores(), additive, MaskingSpec(draws=4))
    worth = 100 * np.arange(N) / np.arange(N).sum()
    np.testing.assert_allclose(line(curve, "top"), [worth[: N - k].sum() for k in range(N + 1)])
    np.testing.assert_allclose(line(curve, "bottom"), [worth[k:].sum() for k in range(N + 1)])
    assert curve["full"]["score"] == pytest.approx(100)
    assert line(curve, "random")[0] == pytest.approx(100) and line(curve, "random")[-1] == pytest.approx(0)
    areas = {cut: area["score"] for cut, area in curve["areas"].items()}
    assert areas["top"] == pytest.approx(np.trapezoid(line(curve, "top")) / N)
    assert areas["top"] < areas["random"] < areas["bottom"]
    assert curve["separation"]["score"] == pytest.approx(areas["bottom"] - areas["top"])
    assert curve["separation"]["low"] > 0


def test_a_ranking_turned_round_separates_the_other_way():
    good = curves(scores(), additive, MaskingSpec())["separation"]["score"]
    bad = curves(scores(np.arange(N)[::-1]), additive, MaskingSpec())["separation"]["score"]
    assert bad == pytest.approx(-good) and good > 20


def test_each_coalition_is_evaluated_once():
    evaluated = []

    def evaluate(coalitions):
        evaluated.extend(row.tobytes() for row in coalitions)
        return additive(coalitions)

    curve = curves(scores(), evaluate, MaskingSpec(draws=5))
    assert len(evaluated) == len(set(evaluated)) == curve["evaluations"]
    assert curve["evaluations"] <= 1 + 7 * (N - 1) + 1  # none and all masked are shared by every curve


def test_intervals_are_over_samples_and_cover_the_mean():
    def noisy(coalitions):
        return additive(coalitions, samples=40, noise=0.2)

    curve = curves(scores(), noisy, MaskingSpec(counts=(0, 3, 6, 12)))
    sample = 100 * noisy(np.array([[True] * (N - 3) + [False] * 3]))[0]
    point = next(p for p in curve["points"] if (p["cut"], p["heads"]) == ("top", 3))
    assert point["score"] == pytest.approx(sample.mean())
    assert {key: point[key] for key in ("score", "low", "high")} == pytest.approx(estimate([sample]))
    for row in (*curve["points"], curve["full"], *curve["areas"].values(), curve["separation"]):
        assert row["low"] <= row["score"] <= row["high"]
    json.dumps(curve, allow_nan=False)
    assert curve == curves(scores(), noisy, MaskingSpec(counts=(12, 6, 3, 0, 3)))


def test_one_sample_has_no_interval_and_one_count_no_area():
    curve = curves(scores(), lambda c: additive(c, samples=1), MaskingSpec(counts=(3,)))
    assert "areas" not in curve and all("low" not in p for p in curve["points"])


def test_large_models_get_a_thinned_curve():
    counts = MaskingSpec().counts_of(256)
    assert counts[0] == 0 and counts[-1] == 256 and len(counts) == 33
    assert MaskingSpec(preset="official").counts_of(256)[0] == 1
    assert MaskingSpec().counts_of(8) == tuple(range(9))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"counts": (13,)}, "expected numbers of heads from 0 to 12"),
        ({"counts": (-1,)}, "expected numbers of heads from 0 to 12"),
        ({"counts": ()}, "expected numbers of heads from 0 to 12"),
        ({"counts": (0,), "preset": "official"}, "from 1 to 11"),
        ({"counts": (12,), "preset": "official"}, "from 1 to 11"),
        ({"preset": "paper"}, "expected 'normalized' or 'official'"),
        ({"draws": 0}, "at least 1 random order"),
        ({"seed": -1}, "expected 0 or more"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(SuiteError, match=message):
        curves(scores(), additive, MaskingSpec(**settings))
