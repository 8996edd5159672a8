"""A prompt that is read in pieces keeps what it keeps when it is read at once, or is refused before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache, PreTrainedModel

import cokv
from cokv.deployment.compression import MethodCompression
from cokv.methods.method import Method

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
SEQ_LEN, NEW = 100, 6
REFUSED = {"fastgen": "TierSums", "expectedattention": "FutureQueries"}
IN_PIECES = [name for name in cokv.METHODS if name not in REFUSED and not cokv.METHODS[name].reads_prompt_again]
FEW = ("snapkv", "h2o", "cake", "scissorhands")


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What methods choose inside `generate`: positions by call, layer and KV head."""
    chosen: list[Any] = []
    positions = MethodCompression.positions

    def noted(self: MethodCompression, *args: Any) -> Any:
        chosen.append(positions(self, *args))
        return chosen[-1]

    monkeypatch.setattr(MethodCompression, "positions", noted)
    return chosen


def budget(method: Method) -> int | None:
    return None if not method.takes_budget else 64 if method.name in ("razorattention", "duoattention") else 40


def lists(chosen: list[Any]) -> list[Any]:
    return [[[head.tolist() for head in layer] for layer in call] for call in chosen]


def read_on(model: PreTrainedModel, ids: torch.Tensor, cache: Any, chunk_size: int) -> list[int]:
    """The greedy answer to a prompt that is read in pieces."""
    for piece in ids[None].split(chunk_size, dim=1):
        logits = model(piece, past_key_values=cache, logits_to_keep=1).logits
    tokens = [int(logits[0, -1].argmax())]
    while len(tokens) < NEW:
        logits = model(torch.tensor([tokens[-1:]]), past_key_values=cache).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens


@pytest.mark.parametrize(
    ("name", "chunk_size"), [*((name, 33) for name in IN_PIECES), *((name, n) for name in FEW for n in (1, 96, 200))]
)
def test_pieces_choose_as_one_pass_does(
    make_model: MakeModel,
    prompt: Prompt,
    small_method: Any,
    profile_of: Any,
    words: Any,
    kept: list[Any],
    name: str,
    chunk_size: int,
) -> None:
    model, method, ids = make_model(), small_method(name), prompt(SEQ_LEN, seed=4)
    answers, choices = [], []
    for size in (SEQ_LEN, chunk_size):
        cache = cokv.compress(model, method, budget(method), profile_of(method), tokenizer=words)
        if size != SEQ_LEN:
            cache.expect_prompt(SEQ_LEN)
        answers.append((read_on(model, ids, cache, size), cache.memory().tokens_held))
        choices.append(lists(kept))
        kept.clear()
    assert answers[0] == answers[1] and choices[0] == choices[1] != []


def own_pieces_are_right(model: PreTrainedModel, ids: torch.Tensor, **settings: Any) -> bool:
    """Whether the installed transformers answers with its own cache as it does in one pass; 5.2 does not."""
    answers = [
        model.generate(ids, past_key_values=DynamicCache(config=model.config), prefill_chunk_size=n, **settings)
        for n in (None, 33)
    ]
    return torch.equal(*answers)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("padding", [0, 20])
def test_generates_own_pieces_answer_as_one_pass_does(
    make_model: MakeModel, prompt: Prompt, small_method: Any, name: str, padding: int
) -> None:
    model, mask = make_model(), torch.ones(2, SEQ_LEN, dtype=torch.long)
    mask[0, :padding] = 0
    ids = torch.stack([prompt(SEQ_LEN, seed) for seed in (1, 2)]) * mask
    settings: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": NEW, "do_sample": False}
    if not own_pieces_are_right(model, ids, **settings):
        pytest.skip(f"transformers {transformers.__version__} reads prompts in pieces wrongly with its own cache")
    answers = []
    for pieces in (None, 33):
        cache = cokv.compress(model, small_method(name), 40)
        if pieces is not None:
            cache.expect_prompt(SEQ_LEN)
        out = model.generate(ids, past_key_values=cache, prefill_chunk_size=pieces, **settings)
        answers.append((out.tolist(), cache.memory().tokens_held))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", [*FEW, "kvzip", "criticalkv"])
@pytest.mark.parametrize("family", ["llama", "qwen3-hybrid"])
def test_prefill_in_pieces_is_prefill(
    make_model: MakeModel, prompt: Prompt, small_method: Any, words: Any, family: str, name: str
) -> None:
    model, method, ids = make_model(family), small_method(name), prompt(SEQ_LEN, seed=4)
    answers = []
    for chunk_size in (None, 33, 200):
        cache = cokv.compress(model, method, 40, tokenizer=words)
        cache.prefill(ids, chunk_size=chunk_size)
        held = cache.memory().tokens_held
        out = model.generate(ids[None], past_key_values=cache, max_new_tokens=NEW, do_sample=False)
        answers.append((out.tolist(), held))
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("name", REFUSED)
def test_a_method_that_must_see_all_queries_is_refused_before(
    make_model: MakeModel, prompt: Prompt, small_method: Any, words: Any, name: str
) -> None:
    cache = cokv.compress(make_model(), small_method(name), 40, tokenizer=words)
    for ask in (lambda: cache.expect_prompt(SEQ_LEN), lambda: cache.prefill(prompt(SEQ_LEN), chunk_size=33)):
        with pytest.raises(cokv.CokvError, match=f"^{name}: {REFUSED[name]} must see all queries .* at once"):
            ask()
    assert cache.get_seq_length() == 0


def test_what_is_asked_wrongly_says_what_is_right(make_model: MakeModel, prompt: Prompt, small_method: Any) -> None:
    model, ids = make_model(), prompt(SEQ_LEN)[None]
    cache = cokv.compress(model, small_method("snapkv"), 40)
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(cokv.CokvError, match="expected the prompt's number of tokens"):
            cache.expect_prompt(wrong)
        with pytest.raises(cokv.CokvError, match="expected a positive number of tokens"):
            cache.prefill(ids, chunk_size=wrong)
    cache.expect_prompt(SEQ_LEN - 1)
    with pytest.raises(cokv.CokvError, match=r"has 100 tokens or more, expect_prompt\(99\) said 99"):
        model(ids, past_key_values=cache)
    cache.reset()
    model(ids, past_key_values=cache)  # the first pass is the prompt again
    assert cache.memory().tokens_held == 40 * 6
    with pytest.raises(cokv.CokvError, match="has read a prompt already"):
        cache.expect_prompt(SEQ_LEN)


def test_until_the_last_piece_nothing_is_compressed(make_model: MakeModel, prompt: Prompt, small_method: Any) -> None:
    model, ids = make_model(), prompt(SEQ_LEN)[None]
    cache = cokv.compress(model, small_method("snapkv"), 40)
    cache.expect_prompt(SEQ_LEN)
    model(ids[:, :90], past_key_values=cache)
    assert cache.memory().tokens_held == 90 * 6
    model(ids[:, 90:], past_key_values=cache)
    assert cache.memory().tokens_held == 40 * 6
