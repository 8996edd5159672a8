"""What a look at a long prompt takes beside the prompt itself grows as the prompt does, not as its square."""

from __future__ import annotations

import pytest
import torch

from cokv.cache.live_bytes import live_bytes
from cokv.cache.prefill import prefill
from cokv.methods.scorers.expected_attention import ExpectedAttention
from cokv.methods.scorers.fastgen import FastGenScorer
from cokv.methods.scorers.kvzip import KVzipScorer

SHORT, LONG = 8192, 16384
MATRIX = 4 * (LONG**2 - SHORT**2)  # bytes by which one query head's attention matrix grows: 768 MiB


class Tokenizer:
    all_special_ids = (1, 2)

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1 + ord(c) % 90 for c in text]}

    def decode(self, ids):
        return "," if ids[0] < 20 else "word"


@pytest.mark.slow
@pytest.mark.parametrize(
    "scorer", [FastGenScorer(), ExpectedAttention(), KVzipScorer()], ids=lambda s: type(s).__name__
)
def test_it_grows_with_the_prompt(fresh_model, scorer):
    model = fresh_model(num_hidden_layers=1, max_position_embeddings=2 * LONG)

    def beyond(seq_len: int) -> int:
        """Bytes held at the highest moment, with the scores made, above those of a plain prefill."""
        ids = torch.randint(1, 97, (seq_len,), generator=torch.Generator().manual_seed(0))
        peaks = []
        for observers in ((), scorer.observers):
            with live_bytes() as held:
                layer = prefill(model, ids, 1, observers, Tokenizer()).layers[0]
                if observers:
                    scorer.scores(layer)
            peaks.append(held.peak)
        return peaks[1] - peaks[0]

    short, long = beyond(SHORT), beyond(LONG)
    comparison = f"{short / 2**20:.0f} MiB beyond a plain prefill at {SHORT} tokens, {long / 2**20:.0f} MiB at {LONG}"
    assert long < 2.1 * short and long - short < MATRIX / 8, comparison
