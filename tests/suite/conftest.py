"""A random model in a folder, with the embedded tokenizer: every stage runs in seconds, and no score means anything."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from suite.embedded.tokenizer import build

EXPERIMENT = """
name = "tiny"
methods = ["full", "streamingllm", "snapkv", "cokv"]
kv_budgets = [16, 32]
seeds = [0, 1]

[model]
name = "{model}"

[method_defaults]
window_size = 8

[ruler]
preset = "mini"
length = 160
samples = 2
tasks = ["niah_single_1", "vt"]

[game]
prompts = 1
slice_sizes = [2]
coalitions_per_size = 3
removal_samples = 2

[measure]
kv_budget = 16
prompt_tokens = 64
new_tokens = 4
repeats = 2
"""


@pytest.fixture(scope="session", autouse=True)
def one_worker() -> Iterator[None]:
    """Runs stay in this process where a test asks for no workers: what it patches holds, and nothing is spawned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("suite.run.workers.MAX_DEFAULT_WORKERS", 1)
        yield


@pytest.fixture(scope="session")
def random_model(tmp_path_factory) -> Path:
    """2 layers x 2 KV heads, random weights."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


@pytest.fixture
def experiment_file(tmp_path, random_model) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(EXPERIMENT.format(model=random_model), encoding="utf-8")
    return path
