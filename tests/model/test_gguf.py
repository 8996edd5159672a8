"""GGUF files as models: the same logits as the model that was written, all of it used, and one clear line otherwise."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, PreTrainedModel

pytest.importorskip("gguf")
from gguf_files import VOCAB, byte_level, logits, sentencepiece_metadata, write_gguf

from cokv.model import gguf_file, store
from cokv.model.loading import load_model
from cokv.types import CokvError

MakeModel = Callable[..., PreTrainedModel]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(make_model: MakeModel) -> Callable[..., PreTrainedModel]:
    def get(family: str = "llama", tied: bool = False, **changes: Any) -> PreTrainedModel:
        return make_model(family, vocab_size=VOCAB, tie_word_embeddings=tied, **changes)

    return get


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize(
    ("family", "architecture"), [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")]
)
def test_a_file_holds_the_model_that_was_written(
    tiny: MakeModel, tmp_path: Path, family: str, architecture: str, tied: bool, half: bool
) -> None:
    model = tiny(family, tied)
    loaded = load_model(str(write_gguf(tmp_path / "tiny.gguf", model, architecture, half)))
    assert loaded.model.config.tie_word_embeddings == tied and loaded.model.dtype == torch.float32
    assert torch.allclose(logits(loaded.model), logits(model), atol=2e-2 if half else 1e-5)
    assert loaded.name == "tiny.gguf" and loaded.revision is None
    if half:
        expected = {
            name: tensor.half().float() if tensor.ndim > 1 else tensor for name, tensor in model.state_dict().items()
        }
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())


def test_gemma_3_with_its_sliding_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=16, max_position_embeddings=512, initializer_range=0.15,
        query_pre_attn_scalar=256,
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).eval()
    stated = {**sentencepiece_metadata(), "gemma3.attention.sliding_window": 16}
    file = write_gguf(tmp_path / "g.gguf", model, "gemma3", metadata=stated)
    loaded = load_model(str(file))
    assert loaded.shape.full_layers == (5,) and torch.allclose(logits(loaded.model), logits(model), atol=1e-5)


def test_the_tokenizer_its_template_and_every_end_come_along(tiny: MakeModel, tmp_path: Path) -> None:
    loaded = load_model(str(write_gguf(tmp_path / "tiny.gguf", tiny())))
    text = "The road was 4,096 long.\n\tNobody  counted!"
    assert loaded.tokenizer.encode(text, add_special_tokens=False) == byte_level().encode(text).ids
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    chat = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat == "<|im_start|>user\nHi<|im_end|>\n"
    assert loaded.tokenizer.encode("<|im_end|>", add_special_tokens=False) == [2]
    assert loaded.eos_ids == (2, 0), "the chat's end, and the end of a text"


def test_a_sentencepiece_vocabulary_begins_with_its_token(tiny: MakeModel, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny(), metadata=sentencepiece_metadata())
    tokenizer = load_model(str(file)).tokenizer
    assert tokenizer.tokenize("the road was") == ["▁the", "▁road", "▁was"]
    assert tokenizer.encode("the road")[0] == 1, "<s>, as the file asks"
    assert tokenizer.decode(tokenizer.encode("the road was long")[1:]) == "the road was long"


@pytest.mark.parametrize("stated", [True, None], ids=["stated", "not stated"])
def test_llama_3_begins_with_its_token(tiny: MakeModel, tmp_path: Path, stated: bool | None) -> None:
    metadata = {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": stated}
    tokenizer = load_model(str(write_gguf(tmp_path / "tiny.gguf", tiny(), metadata=metadata))).tokenizer
    assert tokenizer.encode("The road")[0] == 1 and tokenizer.encode("The road", add_special_tokens=False)[0] != 1
    assert tokenizer.backend_tokenizer.model.ignore_merges


def test_an_end_of_turn_that_the_file_does_not_name_ends_answers_too(tiny: MakeModel, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny(), metadata={"tokenizer.ggml.eos_token_id": 0})
    assert set(load_model(str(file)).eos_ids) == {0, 2}


def test_digits_are_single_tokens_where_the_file_says_so(tiny: MakeModel, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny(), metadata={"tokenizer.ggml.pre": "smollm"})
    tokenizer = load_model(str(file)).tokenizer
    assert tokenizer.tokenize("a 17  4,096") == ["a", "Ġ", "1", "7", "Ġ", "Ġ", "4", ",", "0", "9", "6"]


def test_a_rule_of_splitting_that_is_not_known_is_noted(tiny: MakeModel, tmp_path: Path, capsys: Any) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny(), metadata={"tokenizer.ggml.pre": "martian"})
    load_model(str(file))
    assert "does not know tokenizer.ggml.pre 'martian'" in capsys.readouterr().err
    folder = store.converted_folder(store.sha256_of(file))
    assert "martian" in store.stated_conversion(folder).notes[0]


def llama3_factors(theta: float, half: int, factor: float) -> list[float]:
    """Written out from the rule: low wavelengths stay, those beyond 8192 are stretched, in between both."""
    factors = []
    for place in range(half):
        wavelength = 2 * math.pi * theta ** (place / half)
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / 3
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def test_llama_3_frequencies_are_followed(tiny: MakeModel, tmp_path: Path) -> None:
    rule = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0}
    rule |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = tiny(rope_parameters=rule)
    factors = torch.tensor(llama3_factors(500000.0, 8, 32.0), dtype=torch.float32).numpy()
    loaded = load_model(str(write_gguf(tmp_path / "l.gguf", model, extra={"rope_freqs.weight": factors})))
    places = list(range(5, 45)) * 12
    assert torch.allclose(logits(loaded.model, places), logits(model, places), atol=1e-4)
    assert loaded.model.config.rope_parameters["factor"] == 32.0
    with pytest.raises(CokvError, match="does not follow Llama 3's rule"):
        load_model(str(write_gguf(tmp_path / "m.gguf", model, extra={"rope_freqs.weight": factors * 2})))


@pytest.mark.parametrize("rule", ["linear", "yarn"])
def test_scaled_positions_are_followed(tiny: MakeModel, tmp_path: Path, rule: str) -> None:
    stated = {"rope_type": rule, "rope_theta": 10000.0, "factor": 4.0}
    stated |= {"original_max_position_embeddings": 128} if rule == "yarn" else {}
    model = tiny("qwen2", rope_parameters=stated)
    scaling = {"qwen2.rope.scaling.type": rule, "qwen2.rope.scaling.factor": 4.0}
    scaling |= {"qwen2.rope.scaling.original_context_length": 128} if rule == "yarn" else {}
    loaded = load_model(str(write_gguf(tmp_path / "q.gguf", model, "qwen2", metadata=scaling)))
    assert torch.allclose(logits(loaded.model), logits(model), atol=1e-5)
    assert not torch.allclose(logits(tiny("qwen2")), logits(model), atol=1e-2), "the rule matters"


Q = "blk.1.attn_q.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": [Q]}, r"lacks 1 tensors, model\.layers\.1\.self_attn\.q_proj\.weight"),
        ({"without": ["token_embd.weight"]}, "lacks 1 tensors, model.embed_tokens.weight"),
        ({"metadata": {"tokenizer.ggml.model": None, "tokenizer.ggml.tokens": None}}, "no tokenizer inside"),
        ({"metadata": {"llama.feed_forward_length": 80}}, "llama model"),
        ({"metadata": {"llama.rope.scaling.type": "longrope"}}, "scaled by 'longrope'"),
        ({"metadata": {"split.count": 3}}, "one of 3 parts"),
        ({"extra": {"blk.0.attn_q.bias": torch.ones(64).numpy()}}, "leaves some out, such as blk.0.attn_q.bias"),
        ({"metadata": {"llama.attention.head_count": None}}, "llama model"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_file_that_does_not_fit_is_one_clear_line(
    tiny: MakeModel, tmp_path: Path, cache: Path, changes: dict[str, Any], message: str
) -> None:
    refused(write_gguf(tmp_path / "odd.gguf", tiny(), **changes), message, cache)


@pytest.mark.parametrize("architecture", ["bert", "martian"])
def test_an_architecture_that_cannot_be_read_is_named(
    tiny: MakeModel, tmp_path: Path, cache: Path, architecture: str
) -> None:
    file = write_gguf(tmp_path / "odd.gguf", tiny())
    content = file.read_bytes().replace(b"llama", architecture.ljust(5, "x")[:5].encode())
    file.write_bytes(content)
    refused(file, architecture[:4], cache)


@pytest.mark.parametrize("keep", [4, 30, 400, 0.5, 0.999], ids=str)
def test_a_truncated_file_is_one_clear_line(tiny: MakeModel, tmp_path: Path, cache: Path, keep: float) -> None:
    file = write_gguf(tmp_path / "cut.gguf", tiny())
    content = file.read_bytes()
    file.write_bytes(content[: keep if isinstance(keep, int) else int(len(content) * keep)])
    refused(file, "truncated or damaged", cache)


@pytest.mark.parametrize(("content", "message"), [(b"", "begins with b''"), (b"PK\3\4 zip", "no GGUF file")])
def test_what_is_no_gguf_file_is_one_clear_line(tmp_path: Path, cache: Path, content: bytes, message: str) -> None:
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    refused(file, message, cache)
    file.unlink()
    refused(file, "No such file", cache)


def refused(file: Path, message: str, cache: Path) -> None:
    with pytest.raises(CokvError, match=message) as caught:
        load_model(str(file))
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)
    models = cache / "models"
    assert not models.exists() or not [path for path in models.iterdir() if path.is_dir()], "nothing half is left"


def test_the_extra_is_named_where_it_is_missing(tiny: MakeModel, tmp_path: Path, monkeypatch: Any) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", tiny())
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CokvError, match=r"needs gguf and accelerate; install the extra: pip install 'cokv\[gguf\]'"):
        load_model(str(file))


def test_a_file_is_converted_once_and_known_by_its_content(tiny: MakeModel, tmp_path: Path, monkeypatch: Any) -> None:
    file = write_gguf(tmp_path / "a.gguf", tiny())
    first = load_model(str(file))
    assert first.gguf == store.sha256_of(file) == first.identity()["gguf"]
    monkeypatch.setattr(gguf_file, "convert", lambda *_: pytest.fail("converted again"))
    again = load_model(str(file.rename(tmp_path / "b.gguf")))
    assert again.digest == first.digest and again.name == "b.gguf"
    folder = store.converted_folder(first.gguf)
    assert load_model(str(folder)).digest == first.digest, "the folder is the same model"
    monkeypatch.undo()
    monkeypatch.setenv("COKV_CACHE", str(tmp_path / "cache"))
    other = load_model(str(write_gguf(tmp_path / "c.gguf", tiny(seed=1))))
    assert other.digest != first.digest


def test_a_converted_folder_that_was_changed_is_another_model(tiny: MakeModel, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", tiny())
    first = load_model(str(file))
    config = store.converted_folder(first.gguf) / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "rms_norm_eps": 0.1}))
    with pytest.raises(CokvError, match="not as it was converted; delete this folder"):
        load_model(str(file))
    assert load_model(str(config.parent)).digest != first.digest


def test_what_a_killed_process_left_is_removed(tiny: MakeModel, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "a.gguf", tiny())
    folder = store.converted_folder(store.sha256_of(file))
    left = folder.with_name(f".{folder.name}.part")
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert load_model(str(file)).gguf
    assert not left.exists()


def test_two_at_once_convert_once(tiny: MakeModel, tmp_path: Path, monkeypatch: Any) -> None:
    file, convert, calls = write_gguf(tmp_path / "a.gguf", tiny()), gguf_file.convert, []

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return convert(*arguments)

    monkeypatch.setattr(gguf_file, "convert", counted)
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(gguf_file.folder_of(file))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(set(folders)) == 1 and len(folders) == 3


def test_a_cache_that_cannot_be_written_is_one_clear_line(tiny: MakeModel, tmp_path: Path, monkeypatch: Any) -> None:
    file = write_gguf(tmp_path / "a.gguf", tiny())
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("COKV_CACHE", str(tmp_path / "taken"))
    with pytest.raises(CokvError, match=r"cannot write .*set COKV_CACHE"):
        load_model(str(file))
