"""What a run stores for its readers is what was computed, whatever happens to the run, and changes no answer."""

import base64
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from cokv.cluster import InProcess
from cokv.model.loading import load_model
from cokv.types import Selection
from suite.experiment import run_experiment
from suite.run import shown, source
from suite.run.folder import RunFolder
from suite.run.stored_answers import OTHERS, PREDICTIONS
from suite.spec import read_experiment

TEXT = """
name = "shown"
methods = ["full", "streamingllm", "snapkv"]
kv_budgets = [24]
seeds = [0, 1]
{more}
[method_defaults]
window_size = 8
[ruler]
preset = "mini"
length = 200
samples = 2
tasks = ["niah_single_1", "vt"]
"""


class StopsAfter(InProcess):
    """Stops as a kill does, once some samples are decoded."""

    def __init__(self, samples: int) -> None:
        super().__init__("cpu")
        self.samples = samples

    def map_blocks(self, make_worker, blocks):
        for number, result in enumerate(super().map_blocks(make_worker, blocks)):
            if number == self.samples:
                raise KeyboardInterrupt
            yield result


def run(runs: Path, more: str = "", text: str = TEXT, pool: InProcess | None = None) -> RunFolder:
    runs.mkdir(exist_ok=True)
    (runs / "experiment.toml").write_text(text.replace("{more}", more), encoding="utf-8")
    return run_experiment(read_experiment(runs / "experiment.toml"), runs, pool)


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> RunFolder:
    return run(tmp_path_factory.mktemp("shown") / "runs")


def sample(line: dict) -> tuple:
    return line["task"], line["seed"], line["sample_id"]


def masks(line: dict) -> np.ndarray:
    """bool [cells, num_layers, num_kv_heads, seq_len], read without the code that wrote it."""
    width = -(-line["seq_len"] // 8)
    bits = np.frombuffer(zlib.decompress(base64.b64decode(line["patterns"])), np.uint8).reshape(-1, width)
    patterns = np.unpackbits(bits, axis=1, count=line["seq_len"], bitorder="little").astype(bool)
    which = np.frombuffer(zlib.decompress(base64.b64decode(line["which"])), "<u4")
    return patterns[which.reshape(len(line["cells"]), line["num_layers"], line["num_kv_heads"])]


def test_every_sample_has_its_prompt_and_the_first_of_each_task_its_kept_tokens(finished):
    records, prompts, kept = (finished.lines(name) for name in (PREDICTIONS, shown.PROMPTS, shown.KEPT))
    assert sorted(map(sample, prompts)) == sorted({sample(record) for record in records})
    assert sorted(map(sample, kept)) == [(t, 0, f"{t}/200/0/0") for t in ("niah_single_1", "vt")]
    lengths = {sample(record): record["prompt_tokens"] for record in records}
    for line in prompts:
        assert all(reference in line["text"] for reference in next(
            record["references"] for record in records if sample(record) == sample(line)
        ))  # fmt: skip
    for line in kept:
        assert line["seq_len"] == len(line["tokens"]) == lengths[sample(line)]
        assert "".join(line["tokens"]) == next(p["text"] for p in prompts if sample(p) == sample(line))


def test_kept_tokens_are_those_that_the_record_counts(finished):
    totals = {(sample(r), r["cell"], r["kv_budget"]): r["kept_tokens"] for r in finished.lines(PREDICTIONS)}
    for line in finished.lines(shown.KEPT):
        for cell, mask in zip(line["cells"], masks(line), strict=True):
            assert mask.sum() == totals[sample(line), cell["cell"], cell["kv_budget"]], cell
            if cell["method"] == "streamingllm":
                assert (np.flatnonzero(mask[0, 0]) == [*range(4), *range(line["seq_len"] - 20, line["seq_len"])]).all()


def test_packing_keeps_every_position():
    generator = torch.Generator().manual_seed(0)
    for seq_len in (1, 7, 8, 9, 100):
        selections = [
            Selection.from_mask(torch.rand(3, 2, seq_len, generator=generator) < share) for share in (0.0, 0.3, 1.0)
        ]
        line = {**shown.packed(selections), "cells": [{}] * 3}
        unpacked = masks(json.loads(json.dumps(line)))
        for selection, mask in zip(selections, unpacked, strict=True):
            assert (selection.mask().numpy() == mask).all()


@pytest.mark.parametrize(
    "text", ["plain words", "日本語 ü 🙂🙂 e\u0301", "\n\n\t x", "\N{REPLACEMENT CHARACTER} end", ""]
)
def test_tokens_add_up_to_the_text(loaded, text):
    ids = torch.tensor(loaded.tokenizer.encode(text, add_special_tokens=False), dtype=torch.int64)
    texts = shown.token_texts(loaded, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == loaded.tokenizer.decode(ids.tolist()) if len(ids) else texts == []


@pytest.mark.parametrize("more", ["shown_samples = 0", "shown_samples = 2"])
def test_what_is_shown_changes_no_answer(finished, tmp_path, more):
    other = run(tmp_path / "runs", more)
    assert other.path.name == finished.path.name
    for name in (PREDICTIONS, shown.PROMPTS, "metrics.json"):
        assert (other.path / name).read_bytes() == (finished.path / name).read_bytes(), name
    assert len(other.lines(shown.KEPT)) == (0 if more.endswith("0") else 4)
    assert (other.path / shown.KEPT).exists() == (not more.endswith("0"))


def test_a_killed_run_stores_everything_once(finished, tmp_path):
    for samples in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "runs", pool=StopsAfter(samples))
    with next((tmp_path / "runs").glob(f"shown-*/{shown.PROMPTS}")).open("ab") as file:
        file.write(b'{"task": "torn')
    folder = run(tmp_path / "runs")
    for name in (shown.PROMPTS, shown.KEPT):
        lines = folder.lines(name)
        assert sorted(lines, key=sample) == sorted(finished.lines(name), key=sample)


def test_a_run_that_grows_adds_the_new_cells_only(finished, tmp_path):
    small = TEXT.replace(', "snapkv"', "")
    before = run(tmp_path / "runs", text=small).lines(shown.KEPT)
    folder = run(tmp_path / "runs")
    after = folder.lines(shown.KEPT)
    assert after[: len(before)] == before
    assert [[cell["method"] for cell in line["cells"]] for line in after] == [["full", "streamingllm"]] * 2 + [
        ["snapkv"]
    ] * 2
    assert folder.lines(shown.PROMPTS) == finished.lines(shown.PROMPTS)
    assert not (folder.path / OTHERS).exists()


def test_a_run_without_prompts_goes_on_and_stores_those_of_new_answers(tmp_path):
    folder = run(tmp_path / "runs", text=TEXT.replace(', "snapkv"', ""))
    for name in (shown.PROMPTS, shown.KEPT, "done.json"):
        (folder.path / name).unlink()
    assert not run(tmp_path / "runs", text=TEXT.replace(', "snapkv"', "")).lines(shown.PROMPTS), "not stored"
    folder = run(tmp_path / "runs")
    assert len(folder.lines(shown.PROMPTS)) == 8
    assert [cell["method"] for line in folder.lines(shown.KEPT) for cell in line["cells"]] == ["snapkv"] * 2


def test_a_question_that_comes_after_the_compression_is_apart(tmp_path):
    folder = run(tmp_path / "runs", text=f"{TEXT}\n[protocol]\nquery_aware = false\n")
    prompts = {sample(line): line for line in folder.lines(shown.PROMPTS)}
    assert all(line["question"] and line["question"] not in line["text"] for line in prompts.values())
    for line in folder.lines(shown.KEPT):
        assert "".join(line["tokens"]) == prompts[sample(line)]["text"], "only the context is compressed"


def test_the_code_that_stores_is_no_part_of_an_answers_identity():
    assert "suite.run.shown" in source.SILENT
    without = tuple(part for part in source.SILENT if part != "suite.run.shown")
    assert source.source_digest(without=without) != source.source_digest()
