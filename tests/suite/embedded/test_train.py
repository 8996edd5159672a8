"""Training: a few tiny steps on the CPU. Checkpoints resume, the folder loads, and the planted head looks one back."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cokv.model.loading import load_model
from suite.embedded.schedule import RATE, State
from suite.embedded.train import Trainer, arguments, exact_match

TINY = """--device cpu --no-compile --workers 0 --every 1 --warmup 4 --max-length 128 --tokens 256
    --layers 2 --width 32 --intermediate 48 --heads 4 --kv-heads 2 --head-dim 16"""


def tiny(out: Path, *more: str) -> argparse.Namespace:
    return arguments(["--out", str(out), *TINY.split(), *more])


def reports(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after about a second of training."""
    out = tmp_path_factory.mktemp("trained")
    Trainer(tiny(out, "--minutes", "0.02")).run()
    return out


def test_a_step_moves_every_weight_and_the_loss_is_finite(tmp_path: Path) -> None:
    trainer = Trainer(tiny(tmp_path))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    loss = trainer.step(next(trainer.loader()))
    assert loss is not None and math.isfinite(loss)
    still = [name for name, weight in trainer.model.named_parameters() if torch.equal(weight, before[name])]
    assert not still, f"{still} did not move"


def test_a_start_keeps_the_known_words_and_draws_the_new_ones(trained: Path, tmp_path: Path) -> None:
    """From a checkpoint that lacks our last 100 words and has all others one row lower."""
    weights = load_file(str(trained / "model.safetensors"))
    name = "model.embed_tokens.weight"
    stored = weights[name][1:-100].contiguous()
    save_file({**weights, name: stored}, str(tmp_path / "model.safetensors"))
    described = json.loads((trained / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = described["model"]["vocab"]
    described["model"]["vocab"] = {w: i - 1 for w, i in vocabulary.items() if 0 < i < len(vocabulary) - 100}
    described["added_tokens"], described["post_processor"] = [], None
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")

    trainer = Trainer(tiny(tmp_path / "out", "--start", str(tmp_path), "--start-length", "128"))
    assert (trainer.state.stage, trainer.state.length) == ("tasks", 128)
    embedding = trainer.model.get_input_embeddings().weight.detach()
    assert torch.equal(embedding[1:-100], stored)
    new = embedding[-100:]
    assert len(new.unique(dim=0)) == 100 and new.abs().max() < 10 * stored.abs().max()
    layer = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(trainer.model.state_dict()[layer], weights[layer])
    assert trainer.step(next(trainer.loader())) is not None


def test_the_loss_falls(tmp_path: Path) -> None:
    """The same batch again and again is learned."""
    trainer = Trainer(tiny(tmp_path))
    batch = next(trainer.loader())
    losses = []
    for _ in range(20):
        losses.append(trainer.step(batch))
        trainer.state.since += 1
    assert losses[-1] < 0.9 * losses[0]


def test_a_step_without_a_finite_gradient_changes_nothing(tmp_path: Path) -> None:
    trainer = Trainer(tiny(tmp_path))
    batch = next(trainer.loader())
    with torch.no_grad():
        trainer.model.model.norm.weight[0] = math.inf
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    assert trainer.step(batch) is None
    assert trainer.state.skipped == 1
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.model.named_parameters())


def test_a_run_logs_finite_losses_and_leaves_a_checkpoint(trained: Path) -> None:
    start, *steps, end = reports(trained)
    assert start["event"] == "start" and end["event"] == "end"
    assert [line["step"] for line in steps] == list(range(1, len(steps) + 1)) and steps
    assert all(math.isfinite(line["loss"]) for line in steps)
    assert end["step"] == len(steps) and end["tokens"] == 128 * len(steps)
    assert {path.name for path in trained.iterdir()} >= {"checkpoint.pt", "model.safetensors", "config.json"}
    assert not list(trained.glob("*.part")), "a file was left half written"


def test_a_checkpoint_holds_its_state_as_a_plain_dict(trained: Path) -> None:
    """So that `torch.load` reads it without unpickling any class of ours, and older checkpoints stay good."""
    saved = torch.load(trained / "checkpoint.pt", weights_only=True)
    assert type(saved["state"]) is dict
    assert list(saved["state"]) == ["step", "stage", "length", "minutes", "tokens", "skipped", "since", "span"]
    assert State(**saved["state"]).step == reports(trained)[-1]["step"]


def test_resuming_goes_on_where_it_was(tmp_path: Path) -> None:
    Trainer(tiny(tmp_path, "--minutes", "0.005")).run()
    first = reports(tmp_path)
    weights = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]

    again = Trainer(tiny(tmp_path, "--minutes", str(first[-1]["minutes"] + 0.005)))
    assert again.state.step == first[-1]["step"] > 0
    assert all(torch.equal(weight, weights[name]) for name, weight in again.model.state_dict().items())
    assert again.optimizer.state_dict()["state"], "the optimizer lost its moments"
    again.run()
    second = reports(tmp_path)[len(first) :]
    assert second[0]["step"] == first[-1]["step"]
    assert second[1]["step"] == first[-1]["step"] + 1
    assert second[-1]["minutes"] > first[-1]["minutes"] and second[-1]["tokens"] > first[-1]["tokens"]


def test_the_folder_loads_as_a_model_of_the_suite(trained: Path) -> None:
    loaded = load_model(str(trained))
    assert (loaded.shape.num_layers, loaded.shape.num_kv_heads, loaded.shape.head_dim) == (2, 2, 16)
    assert loaded.shape.context_length == 256, "twice the longest context of the curriculum"
    assert loaded.eos_ids == (2,)
    ids = loaded.tokenizer.encode("The lantern is 42.")
    assert ids[0] == 1 and loaded.tokenizer.decode(ids, skip_special_tokens=True) == "The lantern is 42."
    saved = torch.load(trained / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(weight, saved[name]) for name, weight in loaded.model.state_dict().items())


def test_the_planted_head_attends_to_the_previous_token(tmp_path: Path) -> None:
    """At the recipe's own shape: the planted dimension is the larger a part of a token's norm the wider the model."""
    args = arguments(["--out", str(tmp_path), "--device", "cpu", "--no-compile"])
    trainer = Trainer(args)
    ids = torch.randint(3, trainer.config.vocab_size, (4, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        attention = trainer.model(input_ids=ids, output_attentions=True).attentions[0]  # [4, num_heads, 128, 128]
    previous = attention.diagonal(-1, 2, 3).mean((0, 2))  # [num_heads]
    group = args.heads // args.kv_heads
    assert (previous[:group] > 0.9).all(), f"planted: {previous[:group].tolist()}"
    assert (previous[group:] < 0.1).all(), f"not planted, yet they look back: {previous[group:].tolist()}"


def test_exact_match_counts_tokens_and_whole_rows() -> None:
    """Three rows: all of two tokens right, one of two right, and none labelled."""
    logits = torch.eye(4)[[0, 1, 2, 3]]
    matches = exact_match(logits, torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 1]), 2)
    assert matches.tolist() == [[1.0, 1.0], [0.5, 0.0]]


def test_the_rate_warms_up_falls_with_the_context_and_ends_low(tmp_path: Path) -> None:
    trainer = Trainer(tiny(tmp_path, "--minutes", "10", "--rate", "0.01"))

    def rate(**state: Any) -> float:
        trainer.state = State(**{"since": 10, **state})
        return trainer.rate()

    assert rate(since=0) == pytest.approx(0.01 / 4)
    assert rate() == pytest.approx(0.01)
    assert rate(stage="tasks", length=1024) == pytest.approx(0.01 * RATE[1024])
    assert rate(stage="tasks", length=1024) < rate(stage="tasks")
    assert rate(stage="tasks", minutes=9.0) < rate(stage="tasks", minutes=7.0) < rate(stage="tasks")
    assert rate(stage="tasks", minutes=10.0) == pytest.approx(0.01 * 0.01)
    assert rate(minutes=10.0) == pytest.approx(0.01), "stage 1 does not cool"


def test_the_curriculum_grows_span_then_stage_then_context(tmp_path: Path) -> None:
    trainer = Trainer(tiny(tmp_path, "--begun", "0.6", "--copied", "0.9", "--threshold", "0.8"))

    def at(score: float, **state: Any) -> tuple[bool, str, int, int]:
        trainer.state = State(**state)
        moved = trainer.advance({"copy": score, "recall": score})
        assert not moved or trainer.state.since == 0
        return moved, trainer.state.stage, trainer.state.length, trainer.state.span

    assert at(0.7, since=50) == (True, "copy", 64, 16)
    assert at(0.7, since=49) == (False, "copy", 64, 8)
    assert at(0.5, since=50) == (False, "copy", 64, 8)
    assert at(0.91, since=100, span=32) == (True, "tasks", 128, 64)
    assert at(0.89, since=100, span=32) == (False, "copy", 64, 32)
    assert at(0.85, since=150, stage="tasks", span=32) == (True, "tasks", 128, 64)
    assert at(0.7, since=150, stage="tasks", span=32) == (False, "tasks", 64, 32)
    assert at(1.0, since=500, stage="tasks", length=128, span=64) == (False, "tasks", 128, 64), "the longest stays"
