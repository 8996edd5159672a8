"""Would other prompts and other coalitions rank the players alike? Head scores from halves that share neither.

The halves of `split_half_reliability` are of coalitions alone, all played on the same validation prompts, so they agree
on what is peculiar to these prompts. Here one half has half of the draws on half of the prompts, the other the rest of
both. Pearson's correlation of their scores, stepped up to all draws and prompts by Spearman-Brown, estimates the
correlation with scores of as many new draws on as many new prompts. A little too low where draws and prompts interact:
that part of the noise is halved twice.

Does not know: prompts of another length or task than those it was given.
"""

from __future__ import annotations

import numpy as np

from cokv.game.plan import Estimator, Plan, merge_plans
from cokv.game.stability import halves_of_draws, stepped_up
from cokv.types import CokvError, FloatArray

SPLITS = 20


def prompt_reliability(
    estimator: Estimator,
    plans: tuple[Plan, Plan],
    per_prompt: tuple[FloatArray, FloatArray],
    seed: int,
    splits: int = SPLITS,
) -> float | None:
    """Of both runs together. per_prompt: utilities [K, prompts] in the order of each run's plan.

    Mean over random halvings of the prompts, each with a halving of the draws, or, where draws depend on each other,
    with the two runs as halves. A half without any order counts as a correlation of 0; a mean below 0 is returned as it
    is. None for a single prompt, for fewer than three players, and where no half has an order.
    """
    prompts = per_prompt[0].shape[1]
    if any(values.shape != (len(plan.coalitions), prompts) for plan, values in zip(plans, per_prompt, strict=True)):
        shapes = [values.shape for values in per_prompt]
        raise CokvError(
            f"utilities of shapes {shapes}, expected a row per coalition of each plan and a column per prompt"
        )
    if prompts < 2 or plans[0].num_players < 3:
        return None
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    pooled, values = merge_plans(plans), np.concatenate(per_prompt)
    halves = halves_of_draws(pooled, generator, splits) if estimator.independent_draws else None
    correlations = []
    for split in range(splits):
        order = generator.permutation(prompts)
        here, there = order[: prompts // 2], order[prompts // 2 :]
        for one, other in ((here, there), (there, here)):
            if halves is not None:
                first = estimator.resample(pooled, values[:, one].mean(axis=1), halves[split : split + 1])[0]
                second = estimator.resample(pooled, values[:, other].mean(axis=1), 1.0 - halves[split : split + 1])[0]
            else:
                first = estimator.aggregate(plans[0], per_prompt[0][:, one].mean(axis=1)).values
                second = estimator.aggregate(plans[1], per_prompt[1][:, other].mean(axis=1)).values
            correlations.append(_correlation(first, second))
    if all(value is None for value in correlations):
        return None
    return stepped_up(float(np.mean([value or 0.0 for value in correlations])))


def _correlation(first: FloatArray, second: FloatArray) -> float | None:
    """None where neither half has an order."""
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 3:
        return None
    spread = [np.ptp(values[both]) > 0 for values in (first, second)]
    if not all(spread):
        return 0.0 if any(spread) else None
    return float(np.corrcoef(first[both], second[both])[0, 1])
