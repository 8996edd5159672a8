"""The official sample files go the whole way: data, prompt, truncation, scoring."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longbench.metrics import scorer
from longbench.presets import get_preset
from longbench.protocol import build_prompt, encode, format_prompt
from longbench.rescoring import read_predictions, score_predictions
from longbench.sources import load_dataset
from longbench.split import split_ids
from longbench.templates import read_templates

DATASETS = ("multi_news", "passage_retrieval_zh")


@pytest.mark.parametrize("name", DATASETS)
def test_the_official_prompt_is_the_template_formatted_byte_for_byte(data_root: Path, name: str) -> None:
    data = load_dataset(data_root / "longbench", name, partial=True)
    templates = read_templates(data_root / "longbench_config")
    wordings = json.loads((data_root / "longbench_config" / "dataset2prompt.json").read_text(encoding="utf-8"))
    lines = (data_root / "longbench" / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    for sample, line in zip(data.samples, lines, strict=False):
        expected = wordings[name].format(**json.loads(line))
        assert format_prompt(templates.prompt(name), sample.record).encode() == expected.encode()
    assert len(data.samples) == 40


@pytest.mark.parametrize("name", DATASETS)
def test_official_prompts_are_cut_in_the_middle(data_root: Path, tokenizer: Any, name: str) -> None:
    data = load_dataset(data_root / "longbench", name, partial=True)
    template = read_templates(data_root / "longbench_config").prompt(name)
    for sample in data.samples[:5]:
        whole = template.format(**sample.record)
        ids = encode(tokenizer, whole, special=True)
        prompt = build_prompt(get_preset("cokv"), name, template, sample.record, tokenizer, "llama-3")
        assert prompt.truncated == (len(ids) > 8000)
        assert prompt.text.startswith(whole[:100]) and prompt.text.endswith(whole[-100:])
        assert len(prompt.input_ids) <= 8000


@pytest.mark.parametrize("name", DATASETS)
def test_gold_answers_get_the_official_value(data_root: Path, tmp_path: Path, name: str) -> None:
    data = load_dataset(data_root / "longbench", name, partial=True)
    rows = [
        {"pred": sample.answers[0], "answers": list(sample.answers), "all_classes": None, "length": sample.length}
        for sample in data.samples[:12]
    ]
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    score = score_predictions(read_predictions(path))[name]
    assert score.score == scorer(name, [row["pred"] for row in rows], [row["answers"] for row in rows], None)
    assert score.score == 100.0, "a gold answer against itself"


def test_official_ids_split_into_validation_and_test(data_root: Path) -> None:
    data = load_dataset(data_root / "longbench", "multi_news", partial=True)
    split = split_ids(data.name, [sample.id for sample in data.samples])
    assert (len(split.validation), len(split.test)) == (6, 34)


def test_official_samples_with_a_real_tokenizer(data_root: Path) -> None:
    """Any `tokenizers` object will do; a byte-level one without training data keeps every byte."""
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.BPE(vocab={char: i for i, char in enumerate(sorted(_alphabet(tokenizers)))}, merges=[])
    real = tokenizers.Tokenizer(model)
    real.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    real.decoder = tokenizers.decoders.ByteLevel()

    class Adapter:
        def encode(self, text: str, *, add_special_tokens: bool) -> Any:
            return real.encode(text, add_special_tokens=add_special_tokens)

        def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:
            return real.decode(token_ids, skip_special_tokens=skip_special_tokens)

    data = load_dataset(data_root / "longbench", "passage_retrieval_zh", partial=True)
    template = read_templates(data_root / "longbench_config").prompt("passage_retrieval_zh")
    whole = template.format(**data.samples[0].record).encode()
    prompt = build_prompt(get_preset("cokv"), data.name, template, data.samples[0].record, Adapter())
    assert prompt.truncated
    assert prompt.text == whole[:4000].decode(errors="replace") + whole[-4000:].decode(errors="replace")


def _alphabet(tokenizers: Any) -> list[str]:
    return list(tokenizers.pre_tokenizers.ByteLevel.alphabet())
