"""Head scores of an experiment: two independent SSV runs per task, their stability, and the head-removal check.

The games are played on validation prompts. Every evaluated coalition is a line of `game.jsonl`, so a killed run goes on
where it was. What is used by methods is the two runs pooled: twice the draws. Head removal is measured on test samples:
heads are cut by score and the rest answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from cokv.game.estimators import SlicedShapley
from cokv.game.plan import BoolArray, Plan, distinct, merge_plans
from cokv.game.stability import assess
from cokv.game.utility import GamePrompt, HeadGame
from cokv.model import LoadedModel
from cokv.prefill import prefill
from cokv.types import JSON, FloatArray, HeadScores
from suite.progress import Reporter, progress
from suite.prompt import Prompt, text_of
from suite.runs import RunFolder
from suite.spec import Experiment, GameSpec
from suite.tasks import seeds_of, task_names, test_prompts, validation_prompts

LEDGER = "game.jsonl"
BLOCK = 16  # coalitions evaluated, and recorded, at a time


class Ledger:
    """Utilities by (task, coalition), one line each; what is known is never evaluated again."""

    def __init__(self, folder: RunFolder, append: Callable[[list[dict[str, Any]]], None]) -> None:
        self.append = append
        self.known: dict[tuple[str, str], list[float]] = {
            (line["game"], line["coalition"]): line["utilities"]
            for line in folder.lines(LEDGER, ("game", "coalition", "utilities"))
        }

    @staticmethod
    def key(members: BoolArray) -> str:
        return "".join("1" if m else "0" for m in members)

    def evaluate(self, name: str, coalitions: BoolArray, game: HeadGame, report: Reporter | None) -> FloatArray:
        """Utilities [coalitions, prompts], evaluating only what is not recorded.

        Blocks are the same whatever is recorded, and one that a kill left half is evaluated whole: a coalition always
        meets the same others in its batch, so that its utility is the same to the last bit.
        """
        rows, where = distinct(coalitions)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            if all((name, self.key(row)) in self.known for row in block):
                if report:
                    report.advance(len(block))
                continue
            utilities = game.per_prompt(block)
            lines = [
                {"game": name, "coalition": self.key(c), "utilities": u.tolist()}
                for c, u in zip(block, utilities, strict=True)
            ]
            self.append(lines)
            self.known |= {(name, line["coalition"]): line["utilities"] for line in lines}
            if report:
                report.advance(len(block))
        found = np.array([self.known[name, self.key(row)] for row in rows])
        return found[where]


def estimator(spec: GameSpec) -> SlicedShapley:
    return SlicedShapley(spec.slice_sizes, spec.coalitions_per_size, spec.aggregation)


def plans(spec: GameSpec, num_players: int) -> tuple[Plan, Plan]:
    """The two independent runs' coalitions."""
    made = [estimator(spec).plan(num_players, 2 * spec.seed + run) for run in (0, 1)]
    return made[0], made[1]


def evaluations(spec: GameSpec, num_players: int) -> int:
    """Distinct coalitions of both runs together, for one task."""
    return len(distinct(merge_plans(plans(spec, num_players)).coalitions)[0])


def game_of(loaded: LoadedModel, prompts: Sequence[Prompt], window_size: int) -> HeadGame:
    """The head game over these prompts, judged by their own metric. A question is read as part of the prompt."""
    players = []
    for prompt in prompts:
        made = prefill(loaded.model, _whole(prompt))

        def judge(tokens: list[int], prompt: Prompt = prompt) -> float:
            return prompt.metric(text_of(loaded, tokens), prompt.references) / 100

        players.append(GamePrompt(made, prompt.stop, judge))
    return HeadGame(loaded.model, players, window_size)


def _whole(prompt: Prompt) -> Any:
    import torch

    return prompt.context_ids if prompt.question_ids is None else torch.cat([prompt.context_ids, prompt.question_ids])


def compute_head_scores(experiment: Experiment, loaded: LoadedModel, folder: RunFolder) -> dict[str, HeadScores]:
    """Per task, the pooled SSV. Writes head_scores/<task>.safetensors and stability.json."""
    spec = experiment.game
    assert spec is not None
    shape = loaded.shape
    num_players = shape.num_layers * shape.num_kv_heads
    pair, method = plans(spec, num_players), estimator(spec)
    tasks, scores = task_names(experiment), {}
    stability: dict[str, Any] = {
        "num_players": num_players,
        "num_layers": shape.num_layers,
        "num_kv_heads": shape.num_kv_heads,
        "utility": "task metric, greedy, first token from the uncompressed prefill",
        "slice_sizes": list(spec.slice_sizes),
        "coalitions_per_size": spec.coalitions_per_size,
        "prompts": spec.prompts,
        "tasks": {},
    }
    total = len(tasks) * (evaluations(spec, num_players) + len(_cuts(np.zeros(num_players), spec)) + 1)
    with folder.appender(LEDGER) as append, progress("head game", total) as report:
        ledger = Ledger(folder, append)
        for task in tasks:
            prompts = list(validation_prompts(experiment, loaded, task, spec.prompts))
            game = game_of(loaded, prompts, spec.window_size)
            both = ledger.evaluate(task, merge_plans(pair).coalitions, game, report).mean(axis=1)
            cut = len(pair[0].coalitions)
            runs = (both[:cut], both[cut:])
            pooled = method.aggregate(merge_plans(pair), both)
            found = assess(method, pair, runs, seed=spec.seed)
            values = pooled.values.reshape(shape.num_layers, shape.num_kv_heads)
            provenance: dict[str, JSON] = {
                "kind": "sliced Shapley value",
                "task": task,
                "spec": spec.model_dump(mode="json"),
                "model": loaded.identity(),
                "coalitions": pooled.evaluations,
            }
            scores[task] = HeadScores(values, provenance)
            scores[task].save(folder.path / "head_scores" / f"{task}.safetensors")
            per_run = [
                method.aggregate(p, u).values.reshape(values.shape).tolist() for p, u in zip(pair, runs, strict=True)
            ]
            stability["tasks"][task] = {
                **{k: v for k, v in found.to_json().items() if v is not None},
                "runs": per_run,
                "head_removal": removal(experiment, loaded, ledger, task, pooled.values, spec, report),
            }
    folder.write("stability.json", stability)
    return scores


def _cuts(values: FloatArray, spec: GameSpec) -> list[tuple[str, int, BoolArray]]:
    """Which heads stay when a share of them is removed: from the top, from the bottom, at random (three draws)."""
    players = len(values)
    count = max(1, round(spec.removal_share * players))
    order = np.argsort(-values, kind="stable")
    rng = np.random.default_rng(spec.seed)
    chosen = [("top", order[:count]), ("bottom", order[-count:])]
    chosen += [("random", rng.permutation(players)[:count]) for _ in range(3)]
    made = []
    for name, removed in chosen:
        members = np.ones(players, dtype=bool)
        members[removed] = False
        made.append((name, count, members))
    return made


def removal(
    experiment: Experiment,
    loaded: LoadedModel,
    ledger: Ledger,
    task: str,
    values: FloatArray,
    spec: GameSpec,
    report: Reporter,
) -> list[dict[str, Any]]:
    """Score on test samples when heads are cut by SSV, in percent, with bootstrap intervals over samples."""
    prompts = [p for seed in seeds_of(experiment, task) for p in test_prompts(experiment, loaded, task, seed)]
    game = game_of(loaded, prompts[: spec.removal_samples], spec.window_size)
    cuts = _cuts(values, spec)
    coalitions = np.array([np.ones(game.num_players, dtype=bool), *(members for _, _, members in cuts)])
    found = 100 * ledger.evaluate(f"{task}/removal", coalitions, game, report)
    rows = []
    for name in ("top", "bottom", "random"):
        mine = [found[i + 1] for i, cut in enumerate(cuts) if cut[0] == name]
        sample = np.mean(mine, axis=0)
        row = {"cut": name, "heads": cuts[0][1], "score": float(sample.mean()), "full_score": float(found[0].mean())}
        if len(sample) > 1:
            low, high = _interval(sample, spec.seed)
            row |= {"low": low, "high": high}
        rows.append(row)
    return rows


def _interval(sample: FloatArray, seed: int) -> tuple[float, float]:
    """95 % percentile bootstrap of the mean."""
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    found = stats.bootstrap((sample,), np.mean, method="percentile", rng=np.random.default_rng(seed))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
