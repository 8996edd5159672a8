"""What benchmarks/game.py plays: the embedded model on one RULER task, or random weights of a known model's shape."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cokv.cache.prefill import prefill
from cokv.decode.decode import Stop, decode
from cokv.game.estimators import SlicedShapley
from cokv.game.plan import BoolArray, distinct
from cokv.game.players import coalition_rows
from cokv.game.utility import GamePrompt
from cokv.model.loading import load_model
from cokv.model.shape import model_shape

ROOT = Path(__file__).resolve().parents[1]
PROTOCOL: dict[str, Any] = {
    "slice_sizes": [32, 64, 96, 128],
    "coalitions_per_size": 250,
    "prompts": 30,
    "new_tokens": 32,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3-8b": {
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_theta": 500000.0,
    },
    "tiny": {
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "initializer_range": 0.15,
    },
}


@dataclass(frozen=True, eq=False)
class GameWorld:
    """A game to play both ways: prompts with their ids [seq_len], and the coalitions bool [coalitions, players]."""

    model: PreTrainedModel
    ids: list[torch.Tensor]
    prompts: list[GamePrompt]
    coalitions: BoolArray
    window_size: int
    max_bytes: int
    facts: dict[str, Any]


def embedded(task: str, max_bytes: int) -> GameWorld:
    """The embedded model, the embedded experiment's game on one RULER task: one SSV run over all its coalitions."""
    from ruler.generate import generate
    from suite.spec import read_experiment
    from suite.tasks.benchmarks import validation_prompts
    from suite.tasks.prompt import text_of
    from suite.tasks.ruler_tasks import VALIDATION_OFFSET

    experiment, loaded = read_experiment(ROOT / "experiments" / "embedded.toml"), load_model()
    spec, ruler = experiment.game, experiment.ruler
    assert spec is not None and ruler is not None
    read = list(validation_prompts(experiment, loaded, task, spec.prompts))
    tokenizer: Any = loaded.tokenizer
    samples = generate(
        task, tokenizer, ruler.length, spec.prompts, experiment.seeds[0], ruler.preset, offset=VALIDATION_OFFSET
    )
    prompts, ids = [], []
    for prompt, sample in zip(read, samples, strict=True):
        assert sample.gold is not None and prompt.references == sample.outputs

        def judge(tokens: list[int], prompt: Any = prompt) -> float:
            return float(prompt.metric(text_of(loaded, tokens), prompt.references)) / 100

        answer = [*tokenizer.encode(sample.gold, add_special_tokens=False), loaded.eos_ids[0]]
        ids.append(prompt.context_ids)
        prefilled = prefill(loaded.model, prompt.context_ids, 1)
        prompts.append(GamePrompt(prefilled, prompt.stop, judge, tuple(answer[: prompt.stop.max_new_tokens])))
    players = loaded.shape.num_layers * loaded.shape.num_kv_heads
    plan = SlicedShapley(spec.slice_sizes, spec.coalitions_per_size).plan(players, seed=0)
    facts = {
        "model": "embedded",
        "digest": loaded.digest,
        "task": task,
        "prompt_tokens": [len(i) for i in ids],
        "slice_sizes": list(spec.slice_sizes),
        "coalitions_per_size": spec.coalitions_per_size,
    }
    return GameWorld(loaded.model, ids, prompts, distinct(plan.coalitions)[0], spec.window_size, max_bytes, facts)


def random_weights(
    shape: str, device: str, dtype: str, prompt: int, new_tokens: int, per_size: int, max_bytes: int
) -> GameWorld:
    """A random-weight model of a known shape and one random prompt; the sizes of the protocol as shares of n."""
    settings = {"max_position_embeddings": prompt + new_tokens, "eos_token_id": None, "bos_token_id": None}
    config = LlamaConfig(**SHAPES[shape], **settings)
    default = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        torch.manual_seed(0)
        with torch.device(device):
            model = LlamaForCausalLM(config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(default)
    ids = torch.randint(1, config.vocab_size, (prompt,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prefilled = prefill(model, ids, 1)
    numbers = model_shape(config)
    players = numbers.num_layers * numbers.num_kv_heads
    sizes = tuple(max(1, size * players // 256) for size in PROTOCOL["slice_sizes"])
    plan = SlicedShapley(tuple(dict.fromkeys(sizes)), per_size).plan(players, seed=0)
    everything = np.ones((1, players), dtype=bool)
    (full,) = decode(model, prefilled, coalition_rows(everything, prefilled, 8), Stop(new_tokens))

    def judge(tokens: list[int]) -> float:
        return sum(a == b for a, b in zip(tokens, full.tokens, strict=True)) / new_tokens

    facts = {"model": f"{shape}, random weights", "dtype": dtype, "prompt_tokens": [prompt], "new_tokens": new_tokens}
    facts |= {"slice_sizes": list(sizes), "coalitions_per_size": per_size}
    game = GamePrompt(prefilled, Stop(new_tokens), judge, tuple(full.tokens))
    return GameWorld(model, [ids], [game], distinct(plan.coalitions)[0], 8, max_bytes, facts)
