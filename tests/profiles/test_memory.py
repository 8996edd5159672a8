"""What profilers hold stays linear in the prompt."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cokv import probes
from cokv.cache.live_bytes import live_bytes
from cokv.cache.prefill import prefill
from cokv.decode.decode import Stop
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.profiles.answered_prompts import Needle, ProfilingPrompt
from cokv.profiles.duo_gates import AnsweredPrompt, Training, train_gates
from cokv.profiles.headkv_scores import NeedleAttention, retrieval_scores
from cokv.profiles.lukv_curves import FutureImportance, lukv_curves
from cokv.profiles.razor_scores import Repeats, razor_scores


@pytest.mark.slow
def test_looking_holds_a_few_numbers_per_token(fresh_model):
    """At 16k tokens one head's attention matrix is 1 GiB of float32; what a look costs is far below."""
    model = fresh_model(num_hidden_layers=1, max_position_embeddings=16384)
    ids = torch.randint(1, 97, (16384,), generator=torch.Generator().manual_seed(0))
    observers = [Repeats(4096), NeedleAttention(100, 104, tuple(range(64)), 4), FutureImportance(16000)]

    def peak(observers):
        with probes.measure("cpu") as probe:
            peak_bytes = prefill(model, ids, 1, observers)
        return probe.result["rss_peak_bytes"], peak_bytes

    plain, _ = peak([])
    looking, peak_bytes = peak(observers)
    assert looking - plain < 4 * 16384**2 // 2, f"{(looking - plain) / 2**20:.0f} MiB beyond a plain prefill"
    held = sum(t.untyped_storage().nbytes() for o in observers for t in peak_bytes.layers[0].observation(o))
    assert held == 4 * (2 * 4 + 2 * 4 + 2 * 16000), "two numbers per query head, twice; one per token and KV head"


@pytest.mark.slow
def test_training_holds_less_than_one_heads_matrix(fresh_model):
    model = fresh_model(num_hidden_layers=2, max_position_embeddings=8192)
    ids = torch.randint(1, 97, (8192,), generator=torch.Generator().manual_seed(0))
    with probes.measure("cpu") as plain:
        model(ids[None])
    with probes.measure("cpu") as trained:
        train_gates(model, [AnsweredPrompt(ids, 8187)], Training(4, 28, steps=1))
    more = trained.result["rss_peak_bytes"] - plain.result["rss_peak_bytes"]
    assert more < 4 * 8192**2, f"{more / 2**20:.0f} MiB beyond a plain pass, over 4 heads and 2 layers"


def gates(model: Any, ids: torch.Tensor) -> None:
    train_gates(model, [AnsweredPrompt(ids, ids.numel() - 5)], Training(4, 28, steps=1))


def curves(model: Any, ids: torch.Tensor) -> None:
    lukv_curves(model, [ProfilingPrompt(ids, Stop(4))], WindowAttention(window_size=8))


def needles(model: Any, ids: torch.Tensor) -> None:
    retrieval_scores(model, [Needle(ProfilingPrompt(ids, Stop(4)), 0, 2048, lambda tokens: True)], "R2")


def repeats(model: Any, ids: torch.Tensor) -> None:
    razor_scores(model, ids.numel() // 4)


@pytest.mark.parametrize("profiler", [gates, curves, needles, repeats])
def test_four_times_the_prompt_takes_about_four_times_the_memory(fresh_model, profiler: Callable[[Any, Any], None]):
    """Tensors by their storages, arrays by the allocator; a matrix of any head would be sixteen times as large."""
    model = fresh_model(
        heads="mqa", num_hidden_layers=1, num_attention_heads=2, hidden_size=32, max_position_embeddings=16400
    )
    peaks = []
    for seq_len in (4096, 16384):
        ids = torch.randint(1, 97, (seq_len,), generator=torch.Generator().manual_seed(0))
        tracemalloc.start()
        try:
            with live_bytes() as held:
                profiler(model, ids)
            peaks.append((held.peak, tracemalloc.get_traced_memory()[1]))
        finally:
            tracemalloc.stop()
    for before, after in zip(*peaks, strict=True):
        assert after < 5 * before + 2**20, f"{before / 2**20:.1f} MiB at 4k tokens, {after / 2**20:.1f} MiB at 16k"
