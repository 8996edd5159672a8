"""HeadKV's retrieval scores: a planted model whose heads' roles are known, and an oracle over full matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from worlds.planted import KV_HEADS, LAYERS, attention_on_needle, planted_model, planted_prompts

from cokv.decode.decode import Stop
from cokv.profiles.answered_prompts import Needle, ProfilingPrompt
from cokv.profiles.headkv_scores import retrieval_scores
from cokv.types import CokvError


@pytest.fixture(scope="module")
def planted():
    model, prompts = planted_model(), planted_prompts(3, seed=1)

    def needle(prompt) -> Needle:
        profiling_prompt = ProfilingPrompt(prompt.input_ids, Stop(2))
        right = lambda tokens: tokens[1:] == [prompt.answer]  # noqa: E731
        return Needle(
            profiling_prompt, prompt.needle, prompt.needle + 1, right, answer_tokens=2
        )  # an ask and the value

    return model, prompts, [needle(prompt) for prompt in prompts]


@pytest.mark.parametrize("kind", ["R", "R2"])
def test_planted_heads_are_found(planted, kind):
    model, prompts, needles = planted
    head_scores = retrieval_scores(model, needles, kind)
    assert head_scores.values.shape == (LAYERS, KV_HEADS)
    right = head_scores.provenance["answered_right"] / len(prompts)
    assert 0 < right < 1, "questions of the spoiled kind go wrong"
    # One of two steps emits the value; the heads of a group are alike, so their mean is their maximum.
    expected = attention_on_needle(model, prompts) / right / 2
    np.testing.assert_allclose(head_scores.values.reshape(-1), expected, atol=1e-6)
    onlooker, null = head_scores.values.reshape(-1)[6:]
    assert onlooker == head_scores.values.max(), "it attends every answer, whether it is of use or not"
    assert null == 0


@pytest.mark.parametrize("heads", ["mha", "gqa", "mqa"])
@pytest.mark.parametrize(("suffix", "gold"), [(None, None), (5, 2), (None, 6), (5, 9)])
def test_scores_are_those_of_the_full_matrices(make_model, prompt, full_attention, greedy_tokens, heads, suffix, gold):
    model, steps = make_model("llama", heads), 6
    needles, expected = [], {"R": [], "R2": []}
    for seed in range(3):
        ids = prompt(41, seed=seed)
        after = None if suffix is None else prompt(suffix, seed=seed + 9)
        read = ids if after is None else torch.cat([ids, after])
        spoken = greedy_tokens(model, read, steps)
        ids[7:10] = torch.tensor(spoken[:3])  # something to be found
        read = ids if after is None else torch.cat([ids, after])
        spoken = greedy_tokens(model, read, steps)
        right = seed != 1
        needles.append(Needle(ProfilingPrompt(ids, Stop(steps), after), 7, 10, lambda tokens, right=right: right, gold))
        if not right:
            continue
        attention = full_attention(model, torch.cat([read, torch.tensor(spoken[:-1])]))
        r, r2 = np.zeros((3, 4)), np.zeros((3, 4))
        for layer in range(3):
            for head in range(4):
                for step in range(steps):
                    row = attention[layer, head, len(read) - 1 + step]
                    best = int(np.argmax(row))
                    r[layer, head] += (7 <= best < 10 and int(read[best]) == spoken[step]) / steps
                    top = np.argsort(-row)[:3]
                    if step < (gold or 3):
                        r2[layer, head] += sum(row[i] for i in top if 7 <= i < 10) / (3 * (gold or 3))
        group = 4 // model.config.num_key_value_heads
        for kind, head_scores in (("R", r), ("R2", r2)):
            expected[kind].append(head_scores.reshape(3, -1, group).mean(axis=-1))
    for kind in ("R", "R2"):
        mean = np.mean(expected[kind], axis=0)
        if mean.any():
            head_scores = retrieval_scores(model, needles, kind)
            np.testing.assert_allclose(head_scores.values, mean, atol=1e-6)
            assert head_scores.provenance["answered_right"] == 2
    assert np.mean(expected["R2"]) > 0, "the oracle must have something to agree with"


def test_what_cannot_be_profiled_is_said(planted):
    model, prompts, needles = planted
    wrong = [Needle(n.prompt, n.start, n.end, lambda tokens: False) for n in needles]
    with pytest.raises(CokvError, match="none of 12 needle prompts right"):
        retrieval_scores(model, wrong, "R")
    with pytest.raises(CokvError, match="no needle prompts"):
        retrieval_scores(model, [], "R2")
    with pytest.raises(CokvError, match=r"a needle at positions 50\.\.51 of a prompt of 42"):
        Needle(ProfilingPrompt(prompts[0].input_ids[:42], Stop(2)), 50, 51, lambda tokens: True)
    for wrong in (0, True, 2.0):
        with pytest.raises(CokvError, match=f"answer_tokens is {wrong}"):
            Needle(ProfilingPrompt(prompts[0].input_ids, Stop(2)), 5, 6, lambda tokens: True, wrong)
