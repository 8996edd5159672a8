"""One law: a cache of any kind, however it is used, answers as one that reads the same tokens in turn; or refuses.

The reference is a row alone that reads its tokens one after another.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import cokv
from cokv.types import CokvError

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN = 90
# A method of each kind of store: grows, ring, by attention (all heads alike; limits and kinds of its own), compensated,
# pages, packed (one width, two), fewer channels.
KINDS = [
    "adakv",
    "streamingllm",
    "tova",
    "fastgen",
    "razorattention",
    "arkvale",
    "kivi4",
    "kivi_by_score",
    "snapkv_think",
]
WORLDS = [*(("llama", name) for name in KINDS), ("qwen3-hybrid", "adakv"), ("qwen3-hybrid", "fastgen")]
CLOSE = {"atol": 2e-5, "rtol": 0.0}


class World:
    """A model, a method, and what rows answer that read alone and in turn."""

    def __init__(self, model: PreTrainedModel, make: Callable[[], cokv.CompressedCache], ids: torch.Tensor) -> None:
        self.model, self.make, self.ids = model, make, ids

    def read(self, cache: Any, ids: torch.Tensor) -> torch.Tensor:
        """Logits [rows, tokens, vocab] of ids [rows, tokens]."""
        with torch.no_grad():
            logits: torch.Tensor = self.model(ids, past_key_values=cache).logits
        return logits

    def filled(self, rows: int = 1) -> Any:
        cache = self.make()
        self.read(cache, self.ids.expand(rows, -1))
        return cache

    def in_turn(self, *parts: torch.Tensor, prompt: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [tokens, vocab] at tokens that a row reads one after another."""
        cache = self.make()
        self.read(cache, (self.ids if prompt is None else prompt)[None])
        return torch.cat([self.read(cache, token[None, None])[0] for token in torch.cat(parts)])


@pytest.fixture(params=WORLDS, ids="-".join)
def world(request: Any, make_model: MakeModel, prompt: Prompt, small_method: Any, profile_of: Any, words: Any) -> World:
    family, name = request.param
    model = make_model(family) if family != "llama" else make_model(num_hidden_layers=2)
    method = small_method(name)
    profile = profile_of(method, 2, 2)
    budget = (64 if name == "razorattention" else 40) if method.takes_budget else None
    return World(model, lambda: cokv.compress(model, method, budget, profile, tokenizer=words), prompt(SEQ_LEN))


@pytest.fixture
def more(prompt: Prompt) -> torch.Tensor:
    return prompt(20, seed=3)


def test_several_tokens_at_once(world: World, more: torch.Tensor) -> None:
    cache = world.filled()
    chunks = [world.read(cache, chunk[None])[0] for chunk in more.split([7, 1, 12])]
    torch.testing.assert_close(torch.cat(chunks), world.in_turn(more), **CLOSE)


def test_copies_and_files_go_on_alike(world: World, more: torch.Tensor, words: Any, tmp_path: Path) -> None:
    cache = world.filled()
    world.read(cache, more[None, :9])
    cache.save(tmp_path / "cache")
    twins = [copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))]
    twins.append(cokv.load_cache(world.model, tmp_path / "cache", tokenizer=words))
    expected = world.read(cache, more[None, 9:])
    for twin in twins:
        assert torch.equal(world.read(twin, more[None, 9:]), expected)
        assert [row.slots for row in twin.held()] == [row.slots for row in cache.held()]


def test_rows_that_are_repeated_reordered_and_dropped(world: World, prompt: Prompt, more: torch.Tensor) -> None:
    a, b = prompt(6, seed=7), prompt(6, seed=8)
    cache = world.filled()
    world.read(cache, more[None])
    cache.batch_repeat_interleave(2)
    world.read(cache, torch.stack([a, b]))
    cache.reorder_cache(torch.tensor([1, 1, 0]))
    got = world.read(cache, torch.stack([a, b, b]))
    expected = {pair: world.in_turn(more, *pair)[-6:] for pair in ((b, a), (b, b), (a, b))}
    for row, pair in enumerate(expected):
        torch.testing.assert_close(got[row], expected[pair], **CLOSE)
    cache.keep_rows(torch.tensor([2, 0]))
    got = world.read(cache, torch.stack([a, b]))
    for row, pair in enumerate(((a, b, a), (b, a, b))):
        torch.testing.assert_close(got[row], world.in_turn(more, *pair)[-6:], **CLOSE)
    assert torch.equal(cache.input_ids[0], torch.cat([world.ids, more, a, b, a])), "ids follow their rows"


def test_beams(world: World) -> None:
    """Each beam's score is the sum of what a row alone gives its tokens."""
    answer = world.model.generate(
        world.ids[None],
        attention_mask=torch.ones_like(world.ids)[None],
        past_key_values=world.make(),
        max_new_tokens=12,
        do_sample=False,
        num_beams=4,
        num_return_sequences=2,
        length_penalty=0.0,
        output_scores=True,
        return_dict_in_generate=True,
    )
    beams = answer.sequences[:, SEQ_LEN:]
    assert not torch.equal(beams[0], beams[1])
    with torch.no_grad():
        first = world.model(world.ids[None]).logits[0, -1:]
    for beam, score in zip(beams, answer.sequences_scores, strict=True):
        logits = torch.cat([first, world.in_turn(beam[:-1])]).log_softmax(-1)
        torch.testing.assert_close(logits.gather(1, beam[:, None]).sum(), score, atol=1e-3, rtol=0)


def test_several_answers_are_drawn_each_on_its_own_row(world: World) -> None:
    torch.manual_seed(0)
    answer = world.model.generate(
        world.ids[None],
        attention_mask=torch.ones_like(world.ids)[None],
        past_key_values=world.make(),
        max_new_tokens=10,
        do_sample=True,
        num_return_sequences=3,
        output_logits=True,
        return_dict_in_generate=True,
    )
    drawn, logits = answer.sequences[:, SEQ_LEN:], torch.stack(answer.logits, dim=1)
    assert len({tuple(row.tolist()) for row in drawn}) == 3
    for row, tokens in enumerate(drawn):
        torch.testing.assert_close(logits[row, 1:], world.in_turn(tokens[:-1]), **CLOSE)


def test_rows_with_padding_before_them(world: World, prompt: Prompt, more: torch.Tensor) -> None:
    short = prompt(60, seed=2)
    ids = torch.stack([world.ids, torch.cat([torch.zeros(SEQ_LEN - 60, dtype=torch.long), short])])
    mask, cache = (ids != 0).long(), world.make()
    with torch.no_grad():
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        world.model(ids, attention_mask=mask, position_ids=positions, past_key_values=cache)
        mask = torch.cat([mask, torch.ones(2, len(more), dtype=torch.long)], dim=1)
        positions = mask.cumsum(-1)[:, -len(more) :] - 1
        got = world.model(more.expand(2, -1), attention_mask=mask, position_ids=positions, past_key_values=cache).logits
    for row, alone in enumerate((world.ids, short)):
        torch.testing.assert_close(got[row], world.in_turn(more, prompt=alone), **CLOSE)


def test_tokens_that_are_taken_back_or_refused(world: World, prompt: Prompt, more: torch.Tensor) -> None:
    cache, wrong = world.filled(), prompt(13, seed=9)
    if hasattr(cache, "activate_past_recording"):
        cache.activate_past_recording()
    elif True in cache.is_sliding:
        pytest.skip("older versions of transformers never take tokens back in layers with a sliding window")
    world.read(cache, more[None, :7])
    before = cache.held()
    for count in (13, 3):
        world.read(cache, wrong[None, :count])
        try:
            cache.crop(-count)
        except CokvError as error:
            assert "cannot give back what it dropped" in str(error) and "\n" not in str(error)
            assert cache.get_seq_length() == SEQ_LEN + 7 + count
            return
    assert [row.slots for row in cache.held()] == [row.slots for row in before]
    got = world.read(cache, more[None, 7:])[0]
    torch.testing.assert_close(got, world.in_turn(more)[7:], **CLOSE)
    with pytest.raises(CokvError, match="reach into the prompt"):
        cache.crop(-21)


def test_after_reset_another_prompt(world: World, prompt: Prompt, more: torch.Tensor) -> None:
    cache, other = world.filled(), prompt(70, seed=4)
    world.read(cache, more[None])
    cache.reset()
    assert cache.get_seq_length() == cache.storage_bytes == 0 and cache.input_ids is None
    world.read(cache, other[None])
    torch.testing.assert_close(world.read(cache, more[None])[0], world.in_turn(more, prompt=other), **CLOSE)
