"""A compressed context as a file: it goes on as the cache that was saved would have, or is refused in one line."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

import cokv
from cokv.cache.storage.state import STATES, state_of
from cokv.types import CokvError, Selection

MakeModel = Callable[..., PreTrainedModel]
Prompt = Callable[..., torch.Tensor]
ROOT = Path(__file__).parents[1]
SEQ_LEN = 90
KINDS = ["full", "streamingllm", "h2o", "fastgen", "cokv", "razorattention", "arkvale", "kivi_by_score", "snapkv_think"]
FEW = ["snapkv", "cake", "kivi4", "arkvale"]


@pytest.fixture
def compressed(small_method: Any, profile_of: Any, words: Any) -> Callable[..., cokv.CompressedCache]:
    def make(model: PreTrainedModel, name: str, kv_budget: Any = None) -> cokv.CompressedCache:
        method = small_method(name)
        whole_heads = name in ("razorattention", "duoattention")
        budget = (kv_budget or (64 if whole_heads else 40)) if method.takes_budget else None
        layers = getattr(model.config, "layer_types", ["full_attention"] * 3).count("full_attention")
        profile = profile_of(method, layers, model.config.num_key_value_heads)
        return cokv.compress(model, method, budget, profile, tokenizer=words)

    return make


def read(model: PreTrainedModel, cache: Any, ids: torch.Tensor, **arguments: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(ids.view(-1, ids.shape[-1]), past_key_values=cache, **arguments).logits
    return logits


def filled(model: PreTrainedModel, cache: cokv.CompressedCache, ids: torch.Tensor) -> cokv.CompressedCache:
    if cache.compression.further_passes:
        cache.prefill(ids)
    else:
        read(model, cache, ids)
    return cache


def goes_on(model: PreTrainedModel, cache: Any, question: torch.Tensor, steps: int = 12) -> torch.Tensor:
    """Logits of a question of several tokens behind all that was read, and of steps after it: [rows, tokens, vocab]."""
    ids = torch.cat([cache.input_ids, question.expand(len(cache.input_ids), -1)], dim=1)
    logits = [read(model, cache, ids[:, cache.get_seq_length() :])]
    while len(logits) <= steps:
        logits.append(read(model, cache, logits[-1][:, -1].argmax(-1, keepdim=True)))
    return torch.cat(logits, dim=1)


def usage(cache: Any) -> list[tuple[int, int, int]]:
    """Slack is laid out anew."""
    return [(row.slots, row.bytes, row.host_bytes) for row in cache.held()]


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(CokvError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- it goes on


@pytest.mark.parametrize("name", sorted(cokv.METHODS))
def test_a_loaded_cache_goes_on_bit_for_bit(
    make_model: MakeModel, prompt: Prompt, compressed: Any, words: Any, tmp_path: Path, name: str
) -> None:
    model, question = make_model(), prompt(9, seed=5)
    cache = filled(model, compressed(model, name), prompt(SEQ_LEN))
    cache.save(tmp_path / "prompt")
    loaded = cokv.load_cache(model, tmp_path / "prompt", tokenizer=words)
    assert usage(loaded) == usage(cache)
    expected = goes_on(model, cache, question)
    assert torch.equal(goes_on(model, loaded, question), expected)
    assert usage(loaded) == usage(cache)
    loaded.save(tmp_path / "later")  # in the middle of an answer, and of a loaded one
    later = cokv.load_cache(model, tmp_path / "later", tokenizer=words)
    assert torch.equal(later.input_ids, cache.input_ids)
    assert torch.equal(goes_on(model, later, question), goes_on(model, cache, question))


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("padded", [False, True])
def test_rows_of_a_batch_and_layers_with_a_sliding_window_too(
    make_model: MakeModel, prompt: Prompt, compressed: Any, tmp_path: Path, name: str, padded: bool
) -> None:
    model, question = make_model("qwen3-hybrid"), prompt(9, seed=5)
    ids = torch.stack([prompt(SEQ_LEN), prompt(SEQ_LEN, seed=1)])
    mask = torch.ones_like(ids)
    if padded:
        ids[1, :30] = mask[1, :30] = 0
    cache = compressed(model, name)
    read(model, cache, ids, attention_mask=mask)
    cache.save(tmp_path / "cache")
    loaded = cokv.load_cache(model, tmp_path / "cache")
    assert torch.equal(loaded.attention_mask, mask) and torch.equal(loaded.input_ids, ids)
    answers = [
        model.generate(
            torch.cat([ids, question.expand(2, -1)], dim=1),
            attention_mask=torch.cat([mask, torch.ones(2, 9, dtype=torch.long)], dim=1),
            past_key_values=one,
            max_new_tokens=12,
            do_sample=False,
        )
        for one in (cache, loaded)
    ]
    assert torch.equal(*answers) and usage(loaded) == usage(cache)


FRESH = """
import sys
sys.path.insert(0, "tests")
import torch, cokv
from conftest import Words, build
model, (folder, *names) = build(), sys.argv[1:]
for name in names:
    cache = cokv.load_cache(model, f"{folder}/{name}", tokenizer=Words())
    expected = torch.load(f"{folder}/{name}.logits")
    ids = torch.cat([cache.input_ids, torch.arange(1, 8)[None]], dim=1)[:, cache.get_seq_length():]
    with torch.no_grad():
        got = model(ids, past_key_values=cache).logits
        more = model(got[:, -1:].argmax(-1), past_key_values=cache).logits
    print(name, torch.equal(torch.cat([got, more], dim=1), expected))
"""


def test_in_a_fresh_process_every_method_gives_the_very_logits(
    make_model: MakeModel, prompt: Prompt, compressed: Any, tmp_path: Path
) -> None:
    model, ids = make_model(), prompt(SEQ_LEN)
    for name in cokv.METHODS:
        cache = filled(model, compressed(model, name), ids)
        cache.save(tmp_path / name)
        torch.save(goes_on(model, cache, torch.arange(1, 8), steps=1), tmp_path / f"{name}.logits")
    threads = f"import torch; torch.set_num_threads({torch.get_num_threads()})"
    done = subprocess.run(
        [sys.executable, "-c", threads + FRESH, str(tmp_path), *cokv.METHODS],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [word for name in cokv.METHODS for word in (name, "True")]


def test_a_file_is_one_context_and_may_be_read_many_times(
    make_model: MakeModel, prompt: Prompt, compressed: Any, tmp_path: Path
) -> None:
    model = make_model()
    filled(model, compressed(model, "snapkv"), prompt(SEQ_LEN)).save(tmp_path / "cache")
    before = (tmp_path / "cache").read_bytes()
    answers = [
        goes_on(model, cokv.load_cache(model, tmp_path / "cache"), question)
        for question in (prompt(9, seed=5), prompt(9, seed=6), prompt(9, seed=5))
    ]
    assert torch.equal(answers[0], answers[2]) and not torch.equal(answers[0], answers[1])
    assert (tmp_path / "cache").read_bytes() == before and len([*tmp_path.iterdir()]) == 1
    message = refusal(cokv.load_cache(model, tmp_path / "cache").reset)
    assert "cokv.compress(model, 'snapkv', kv_budget=40)" in message


def test_assisted_decoding_and_beams_go_on_from_a_file(
    make_model: MakeModel, prompt: Prompt, compressed: Any, tmp_path: Path
) -> None:
    model, text = make_model(), prompt(15).repeat(6)
    filled(model, compressed(model, "snapkv"), text).save(tmp_path / "cache")
    ids = torch.cat([text, prompt(5, seed=5)])[None]
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 20, "do_sample": False}
    plain, assisted = (
        model.generate(ids, past_key_values=cokv.load_cache(model, tmp_path / "cache"), **settings, **use).tolist()
        for use in ({}, {"prompt_lookup_num_tokens": 3, "eos_token_id": 10**6})
    )
    assert plain == assisted
    beams = []
    for cache in (filled(model, compressed(model, "snapkv"), text), cokv.load_cache(model, tmp_path / "cache")):
        cache.batch_repeat_interleave(3)
        beams.append(model.generate(ids, past_key_values=cache, num_beams=3, **settings).tolist())
    assert beams[0] == beams[1]


def test_a_question_may_begin_as_the_text_does(
    make_model: MakeModel, prompt: Prompt, compressed: Any, tmp_path: Path
) -> None:
    """Tokens that were read and tokens that are only like them are told apart."""
    model, text = make_model(), prompt(40)
    cache = filled(model, compressed(model, "snapkv", 20), text)
    cache.save(tmp_path / "cache")
    again = torch.cat([text, text, prompt(5, seed=5)])[None]
    loaded = cokv.load_cache(model, tmp_path / "cache")
    answer = model.generate(
        again, attention_mask=torch.ones_like(again), past_key_values=loaded, max_new_tokens=8, do_sample=False
    )
    expected = [int(read(model, cache, again[0, 40:])[0, -1].argmax())]
    while len(expected) < 8:
        expected.append(int(read(model, cache, torch.tensor(expected[-1:]))[0, -1].argmax()))
    assert answer[0, again.shape[1] :].tolist() == expected


# ---- what a file says, and its size


def test_the_header_says_what_is_held(make_model: MakeModel, prompt: Prompt, compressed: Any, tmp_path: Path) -> None:
    model, ids = make_model(), prompt(SEQ_LEN)
    cache = filled(model, compressed(model, "cokv"), ids)
    cache.save(tmp_path / "with")
    cache.save(tmp_path / "without", input_ids=False)
    with safe_open(tmp_path / "with", framework="pt") as file:
        metadata = file.metadata()
    facts = json.loads(metadata["facts"])
    assert (metadata["kind"], metadata["format"]) == ("cokv.cache", "1")
    assert facts["method"]["method"] == "cokv" and facts["method"]["kv_budget"] == 40 and facts["method"]["profile"]
    assert facts["tokens"]["read"] == facts["tokens"]["prompt"] == SEQ_LEN and facts["tokens"]["ids"] == [1, SEQ_LEN]
    assert facts["model"]["dtype"] == "float32" and {"cokv", "torch", "transformers"} <= {*facts["versions"]}
    assert facts["memory"]["tokens_held"] == cache.memory().tokens_held
    silent = cokv.load_cache(model, tmp_path / "without")
    assert silent.input_ids is None
    assert torch.equal(read(model, silent, ids[:5]), read(model, cache, ids[:5])), "its owner knows the ids"


@pytest.mark.parametrize("name", ["full", "snapkv", "h2o", "kivi4", "arkvale", "snapkv_think"])
def test_slack_is_not_written(
    make_model: MakeModel, prompt: Prompt, compressed: Any, tmp_path: Path, name: str
) -> None:
    model, ids = make_model(max_position_embeddings=4096), prompt(2000)
    cache = filled(model, compressed(model, name, 500), ids)
    read(model, cache, ids[:5])
    cache.save(tmp_path / "cache")
    with (tmp_path / "cache").open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    held = sum(row.bytes + row.host_bytes for row in cache.held())
    size = (tmp_path / "cache").stat().st_size - header - 4 * cache.input_ids.numel()
    assert size <= 1.02 * held, (size, held)


def stores(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from stores(each)
    elif (state := state_of(value)) is not None:
        yield value
        for name in state.attributes:
            yield from stores(getattr(value, name))


def test_every_attribute_of_every_store_is_named(make_model: MakeModel, prompt: Prompt, compressed: Any) -> None:
    """One that is not would be lost in a file, and left behind on another device."""
    model, met = make_model(), set()
    for name in KINDS:
        cache = filled(model, compressed(model, name), prompt(SEQ_LEN))
        read(model, cache, prompt(3))
        for store in stores([layer.rows for layer in cache.ragged_layers]):
            state = STATES[type(store)]
            named = state.attributes | ({"device"} if state.knows_device else set())
            assert {*vars(store)} == named, type(store).__name__
            met.add(type(store))
    assert met == {*STATES}


# ---- refused


@pytest.fixture(scope="module")
def saved(make_model: MakeModel, prompt: Prompt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "cache"
    model = make_model()
    cache = cokv.compress(model, "snapkv", 40, window_size=8)
    read(model, cache, prompt(SEQ_LEN))
    cache.save(path)
    return path


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"family": "qwen3-hybrid"}, "3 layers"),
        ({"heads": "mha"}, "2 KV heads"),
        ({"seed": 1}, "weights"),
        ({"rms_norm_eps": 1e-3}, "weights"),
        ({"dtype": torch.bfloat16}, "bfloat16"),
    ],
)
def test_another_model_is_refused(fresh_model: MakeModel, saved: Path, other: dict[str, Any], why: str) -> None:
    dtype = other.pop("dtype", torch.float32)
    message = refusal(lambda: cokv.load_cache(fresh_model(**other).to(dtype), saved))
    assert "is a cache of another model" in message and why in message


@pytest.mark.parametrize("part", ["embed_tokens", "layers.2.mlp.down_proj", "layers.0.self_attn.k_proj", "norm"])
def test_one_changed_matrix_is_another_model(fresh_model: MakeModel, saved: Path, part: str) -> None:
    model = fresh_model()
    model.model.get_submodule(part).weight.mul_(1.001)
    assert "another model" in refusal(lambda: cokv.load_cache(model, saved))


def test_the_output_head_is_no_part_of_it(fresh_model: MakeModel, saved: Path) -> None:
    model = fresh_model()
    model.lm_head.weight.mul_(2)
    assert cokv.load_cache(model, saved).get_seq_length() == SEQ_LEN


def test_a_damaged_file_is_refused(make_model: MakeModel, saved: Path, tmp_path: Path) -> None:
    model, whole, path = make_model(), saved.read_bytes(), tmp_path / "damaged"
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "damaged" in refusal(lambda: cokv.load_cache(model, path)), length
    for place in (*range(2000, len(whole), len(whole) // 40), len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "damaged" in refusal(lambda: cokv.load_cache(model, path)) or place < 8000, place


def test_what_is_no_saved_cache_is_refused(make_model: MakeModel, saved: Path, tmp_path: Path) -> None:
    model, path = make_model(), tmp_path / "other"
    assert "no such file" in refusal(lambda: cokv.load_cache(model, path))
    Selection.full(3, 2, 5).save(path)
    assert "holds cokv.selection, expected cokv.cache" in refusal(lambda: cokv.load_cache(model, path))
    save_file({"weight": torch.ones(3)}, path)
    assert "expected cokv.cache" in refusal(lambda: cokv.load_cache(model, path))
    with safe_open(saved, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file(tensors, path, metadata={**metadata, "format": "2"})
    assert "is of format 2, this version reads 1" in refusal(lambda: cokv.load_cache(model, path))


def test_an_unread_cache_and_a_lost_model_are_refused(
    fresh_model: MakeModel, prompt: Prompt, compressed: Any, words: Any, tmp_path: Path
) -> None:
    model = fresh_model()
    assert "has read no prompt" in refusal(lambda: compressed(model, "snapkv").save(tmp_path / "cache"))
    assert not [*tmp_path.iterdir()]
    cache = filled(model, compressed(model, "fastgen"), prompt(SEQ_LEN))
    cache.save(tmp_path / "cache")
    assert "give tokenizer=" in refusal(lambda: cokv.load_cache(model, tmp_path / "cache"))
    assert cokv.load_cache(model, tmp_path / "cache", tokenizer=words).held()
    unpickled = pickle.loads(pickle.dumps(cache))
    assert "lost its model" in refusal(lambda: unpickled.save(tmp_path / "again"))
