"""What profilers hold stays linear in the prompt."""

from __future__ import annotations

import pytest
import torch

from cokv import probes
from cokv.prefill import prefill
from cokv.profiles.duo import Answered, Training, train_gates
from cokv.profiles.headkv import Looked
from cokv.profiles.lukv import FutureImportance
from cokv.profiles.razor import Repeats


@pytest.mark.slow
def test_looking_holds_a_few_numbers_per_token(fresh_model):
    """At 16k tokens one head's attention matrix is 1 GiB of float32; what a look costs is far below."""
    model = fresh_model(num_hidden_layers=1, max_position_embeddings=16384)
    ids = torch.randint(1, 97, (16384,), generator=torch.Generator().manual_seed(0))
    observers = [Repeats(4096), Looked(100, 104, tuple(range(64)), 4), FutureImportance(16000)]

    def peak(observers):
        with probes.measure("cpu") as probe:
            made = prefill(model, ids, 1, observers)
        return probe.result["rss_peak_bytes"], made

    plain, _ = peak([])
    looking, made = peak(observers)
    assert looking - plain < 4 * 16384**2 // 2, f"{(looking - plain) / 2**20:.0f} MiB beyond a plain prefill"
    held = sum(t.untyped_storage().nbytes() for o in observers for t in made.layers[0].observation(o))
    assert held == 4 * (2 * 4 + 2 * 4 + 2 * 16000), "two numbers per query head, twice; one per token and KV head"


@pytest.mark.slow
def test_training_holds_less_than_one_heads_matrix(fresh_model):
    model = fresh_model(num_hidden_layers=2, max_position_embeddings=8192)
    ids = torch.randint(1, 97, (8192,), generator=torch.Generator().manual_seed(0))
    with probes.measure("cpu") as plain:
        model(ids[None])
    with probes.measure("cpu") as trained:
        train_gates(model, [Answered(ids, 8187)], Training(4, 28, steps=1))
    more = trained.result["rss_peak_bytes"] - plain.result["rss_peak_bytes"]
    assert more < 4 * 8192**2, f"{more / 2**20:.0f} MiB beyond a plain pass, over 4 heads and 2 layers"
