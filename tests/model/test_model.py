"""Loading a model: what it is, and one clear line for what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast

from cokv.model.loading import load_model
from cokv.model.shape import model_shape
from cokv.types import CokvError

MakeModel = Callable[..., PreTrainedModel]


@pytest.fixture(scope="module")
def folder(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(path)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(97)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1").save_pretrained(path)
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def edit_config(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))


def test_a_folder_loads_as_it_was_saved(folder: Path, make_model: MakeModel) -> None:
    loaded = load_model(str(folder))
    ids = torch.arange(1, 12)[None]
    assert torch.equal(loaded.model(ids).logits, make_model()(ids).logits)
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert (loaded.shape.num_layers, loaded.shape.num_kv_heads, loaded.shape.group_size) == (3, 2, 2)
    assert (loaded.shape.head_dim, loaded.shape.context_length) == (16, 512)
    assert loaded.eos_ids == (1,)
    assert load_model(str(folder), dtype="bfloat16").dtype == torch.bfloat16


def test_identity_covers_weights_config_and_tokenizer(copied: Path) -> None:
    digests = [load_model(str(copied)).digest]
    (copied / "README.md").write_text("a note")
    assert load_model(str(copied)).digest == digests[0]
    edit_config(copied, rms_norm_eps=1e-4)
    digests.append(load_model(str(copied)).digest)
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    digests.append(load_model(str(copied)).digest)
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    digests.append(load_model(str(copied)).digest)
    assert len(set(digests)) == 4


def drop_tensor(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    del weights["model.layers.1.self_attn.q_proj.weight"]
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:5000]), "Safetensor"),
        (lambda p: (p / "model.safetensors").write_bytes(b"nonsense"), "Safetensor"),
        (lambda p: (p / "model.safetensors").unlink(), "no file named model.safetensors"),
        (lambda p: (p / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda p: edit_config(p, model_type="zzz"), "zzz"),
        (lambda p: edit_config(p, intermediate_size=100), "mismatch"),
        (lambda p: (p / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda p: [(p / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")], "tokenizer"),
        (drop_tensor, r"lack 1 tensors, model\.layers\.1\.self_attn\.q_proj\.weight"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(copied: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(copied)
    with pytest.raises(CokvError, match=message) as caught:
        load_model(str(copied))
    assert "\n" not in str(caught.value) and str(copied) in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dtype": "int3"}, "unknown dtype 'int3'; expected one of float32"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"name": "no/such"}, "needs a pinned revision, got None"),
        ({"name": "no/such", "revision": "main"}, "needs a pinned revision, got 'main'"),
    ],
)
def test_wrong_arguments_are_one_clear_line(folder: Path, wrong: dict[str, str], message: str) -> None:
    with pytest.raises(CokvError, match=message):
        load_model(**{"name": str(folder), **wrong})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_not_replaced_by_the_cpu(folder: Path) -> None:
    with pytest.raises(CokvError, match="sees no CUDA device"):
        load_model(str(folder), device="cuda")


@pytest.mark.parametrize("name", ["n_recurrent_loops", "loop_num_passes"])
def test_layers_that_run_more_than_once_are_refused(name: str) -> None:
    config = LlamaConfig()
    setattr(config, name, 1)
    assert model_shape(config).num_layers == config.num_hidden_layers, "once is what every model does"
    setattr(config, name, 2)
    with pytest.raises(CokvError, match=f"more than once .{name} is 2"):
        model_shape(config)


def test_attention_of_another_kind_is_refused() -> None:
    config = LlamaConfig(num_hidden_layers=2)
    config.layer_types = ["full_attention", "chunked_attention"]
    with pytest.raises(CokvError, match="layers of type chunked_attention"):
        model_shape(config)
