"""A head game of an experiment: its identity, and the worker that evaluates its coalitions, in any process."""

from __future__ import annotations

import itertools
import math
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cokv import probes
from cokv.cluster import InProcess, MakeWorker, Pool, Worker
from cokv.cluster.machine import available_memory
from cokv.game.identity import digest
from cokv.game.players import grid
from cokv.game.prefills import PrefillStore
from cokv.game.recorded import RecordedGame
from cokv.game.utility import GamePrompt, HeadGame
from cokv.model.loading import LoadedModel, load_model
from cokv.types import JSON
from suite.errors import SuiteError
from suite.heads.block_evaluation import Answer, Block
from suite.heads.game_folder import opened_game
from suite.run.folder import RunFolder
from suite.run.source import GAME, source_digest
from suite.run.workers import size
from suite.spec import Experiment, GameSpec
from suite.tasks.benchmarks import seeds_of, test_prompts, validation_prompts
from suite.tasks.prompt import Prompt, continuation, text_of

VERSIONS_THAT_MATTER = ("cokv", "torch", "transformers", "tokenizers", "numpy", "rouge", "jieba")


def prompt_ids(prompt: Prompt) -> torch.Tensor:
    """int64 [seq_len]: in the game a question is part of the prompt."""
    return prompt.context_ids if prompt.question_ids is None else torch.cat([prompt.context_ids, prompt.question_ids])


def game_of(loaded: LoadedModel, prompts: Sequence[Prompt], spec: GameSpec, processes: int = 1) -> HeadGame:
    """The head game of a [game] section over these prompts, judged by their metric or teacher-forced on gold answers.

    Prefills are computed when first needed, and kept within this process's share of the memory that is available now.
    processes: that play games on this machine at the same time.
    """
    store = PrefillStore(loaded.model, *_prefill_bounds(loaded.device, processes))
    game_prompts = []
    for prompt in prompts:

        def judge(tokens: list[int], prompt: Prompt = prompt) -> float:
            return prompt.metric(text_of(loaded, tokens), prompt.references) / 100

        game_prompts.append(GamePrompt(store.handle(prompt_ids(prompt)), prompt.stop, judge, gold_ids(loaded, prompt)))
    rules: Any = {"utility": spec.utility, "players": spec.players, "first_token": spec.first_token}
    return HeadGame(loaded.model, game_prompts, spec.window_size, **rules)


def _prefill_bounds(device: torch.device, processes: int) -> tuple[int, int]:
    """Bytes for one process's prefills: on the device, and in CPU memory.

    A run takes a quarter of the CPU memory that is available, so that another run finds some; of a GPU, half.
    """
    host = available_memory() // 4 // processes
    if device.type != "cuda":
        return host, 0
    on_one_gpu = math.ceil(processes / max(torch.cuda.device_count(), 1))
    return torch.cuda.mem_get_info(device)[0] // 2 // on_one_gpu, host


def gold_ids(loaded: LoadedModel, prompt: Prompt) -> tuple[int, ...] | None:
    """The gold answer as greedy decoding would write it, ended by a stop token where there is room for one."""
    if prompt.gold is None:
        return None
    stop, ids = prompt.stop, continuation(loaded.tokenizer, prompt.answer_prefix, prompt.gold)
    ends = [token for token in stop.stop_ids if token in loaded.eos_ids][:1]
    inside = next((index + 1 for index, token in enumerate(ids) if token in stop.stop_ids), None)
    return tuple([*ids, *ends][: stop.max_new_tokens] if inside is None else ids[:inside])


def identity(loaded: LoadedModel, device: str, prompts: Sequence[Prompt], spec: GameSpec) -> dict[str, JSON]:
    """All that can change a utility of the game over these prompts; not which coalitions are evaluated."""
    versions = probes.versions()
    return {
        "model": {name: fact for name, fact in loaded.identity().items() if name != "model"},  # its bytes, not its path
        "device": torch.device(device).type,
        "prompts": [{"id": p.sample_id, "seed": p.seed, "digest": _digest(p)} for p in prompts],
        "benchmark": prompts[0].benchmark,
        "task": prompts[0].task,
        "players": spec.players,
        "shape": list(grid(loaded.shape, spec.players)),
        "utility": spec.utility,
        "first_token": spec.first_token,
        "window_size": spec.window_size,
        "versions": {name: versions[name] for name in VERSIONS_THAT_MATTER if name in versions},
        "source": source_digest(GAME, ()),
    }


def _digest(prompt: Prompt) -> str:
    """Of what the model reads, when it stops, and what it is judged by."""
    stop = prompt.stop
    facts: Any = {
        "ids": prompt_ids(prompt).tolist(),
        "references": list(prompt.references),
        "classes": None if prompt.all_classes is None else list(prompt.all_classes),
        "stop": [stop.max_new_tokens, list(stop.stop_ids), stop.min_new_tokens],
        "gold": prompt.gold,
        "notes": list(prompt.notes),
    }
    return digest(facts)


def open_game(
    runs: Path, name: str, loaded: LoadedModel, device: str, prompts: Sequence[Prompt], spec: GameSpec
) -> AbstractContextManager[tuple[RunFolder, RecordedGame]]:
    """The game over these prompts in its folder, see game_folder.py."""
    return opened_game(runs, name, identity(loaded, device, prompts, spec), num_players(loaded, spec), len(prompts))


def num_players(loaded: LoadedModel, spec: GameSpec) -> int:
    rows, columns = grid(loaded.shape, spec.players)
    return rows * columns


def game_spec(experiment: Experiment) -> GameSpec:
    if experiment.game is None:
        raise SuiteError(f"experiment {experiment.name!r} has no [game] section, which says how the game is played")
    return experiment.game


def worker_of(game: HeadGame) -> Worker:
    """Evaluates blocks of one game."""
    origin = f"{socket.gethostname()}:{os.getpid()}"

    def evaluate(block: Block) -> Answer:
        return origin, game.per_prompt(block[2])

    return evaluate


def one_game_at_a_time(game_named: Callable[[str], HeadGame]) -> Worker:
    """Evaluates blocks of several games; the prefills of one make room for the next one's."""
    name, worker = "", None

    def evaluate(block: Block) -> Answer:
        nonlocal name, worker
        if worker is None or block[0] != name:
            worker = None
            name, worker = block[0], worker_of(game_named(block[0]))
        answer: Answer = worker(block)
        return answer

    return evaluate


TEST = "/test"  # behind a task's name: the game over its test samples


def game_prompts(experiment: Experiment, loaded: LoadedModel, name: str) -> list[Prompt]:
    """The prompts of a game by name: a task's validation prompts, or the first of its test samples."""
    spec = game_spec(experiment)
    task = name.removesuffix(TEST)
    if task == name:
        return list(validation_prompts(experiment, loaded, task, spec.prompts))
    return list(itertools.islice(all_test_prompts(experiment, loaded, task), spec.removal_samples))


def all_test_prompts(experiment: Experiment, loaded: LoadedModel, task: str) -> Iterator[Prompt]:
    """A task's test prompts over all seeds; no validation prompt is among them."""
    return (p for seed in seeds_of(experiment, task) for p in test_prompts(experiment, loaded, task, seed))


@dataclass(frozen=True)
class GamesWorker:
    """Makes a worker: loads the model on the device, and plays one game at a time, whose prompts it prefills."""

    experiment: Experiment
    processes: int = 1  # workers that share the memory of a machine

    def __call__(self, device: str) -> Worker:
        return self.on(load_on(self.experiment, device))

    def on(self, loaded: LoadedModel) -> Worker:
        def game(name: str) -> HeadGame:
            prompts = game_prompts(self.experiment, loaded, name)
            return game_of(loaded, prompts, game_spec(self.experiment), self.processes)

        return one_game_at_a_time(game)

    def for_pool(self, pool: Pool, loaded: LoadedModel) -> MakeWorker:
        """Within this process on the loaded model; in other processes each worker loads one itself."""
        if isinstance(pool, InProcess):
            return lambda _: self.on(loaded)
        return replace(self, processes=size(pool))


def load_on(experiment: Experiment, device: str) -> LoadedModel:
    """The experiment's model, on a worker's device, without a progress bar."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model = experiment.model
    return load_model(model.name, model.revision, device, model.dtype, model.positions)
