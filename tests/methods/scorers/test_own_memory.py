"""Scores are the caller's: written over, they change neither what the prefill holds nor what is asked for next."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cokv.cache.prefill import prefill
from cokv.methods.method import NORMALIZED
from cokv.methods.registry import METHODS
from cokv.methods.scorers import Refines


class Tokenizer:
    all_special_ids = (1, 2)

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1 + ord(c) % 90 for c in text]}

    def decode(self, ids):
        return "," if ids[0] < 20 else "word"


SCORERS = {
    f"{name}-{preset}": method.with_preset(preset).scorer
    for name, method in METHODS.items()
    for preset in (NORMALIZED, *method.presets)
    if method.scorer is not None
}


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
def test_scores_are_the_callers_own(make_model, prompt, scorer):
    if hasattr(scorer, "chunk_size"):
        scorer = replace(scorer, chunk_size=16)
    model = make_model("llama", "mha", num_hidden_layers=1)
    layer = prefill(model, prompt(80), 64, getattr(scorer, "observers", ()), Tokenizer()).layers[0]
    scores = scorer.scores(layer)
    before = scores.clone()
    if isinstance(scorer, Refines):
        scorer.refine(layer, scores, torch.full((4,), 70)).fill_(-7)
        assert torch.equal(scores, before), "refine gave out its input"
    scores[0] = -7
    assert torch.equal(scores[1:], before[1:]), "heads share memory"
    scores.fill_(-7)
    assert torch.equal(scorer.scores(layer), before), "the prefill's own numbers were given out"
