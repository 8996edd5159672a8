"""Miniatures of the papers' experiments: random models with as many heads, our own records in official schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from chat_tokenizers import CHATML, tokenizer_with
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from longbench.tasks import TASKS
from suite.known.models import hub_models
from suite.spec import Experiment
from suite.tasks.hub_rows import HubRows

TEXT = "the keeper of the small lighthouse wrote that rain came from the west and boats stayed at the pier"
WORDS = TEXT.split()
SHORT, LONG = 40, 300  # words of a context; a tenth of a long one holds twice the window of 32


def model_folder(name: str, folder: Path, layers: int | None = None) -> Path:
    """A random model with the layers (or so many) and KV heads of a hub model, and nothing else of it."""
    known, qwen = hub_models()[name], "Qwen3" in name
    tokenizer = tokenizer_with(CHATML)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": layers or known.layers,
        "num_attention_heads": known.kv_heads,
        "num_key_value_heads": known.kv_heads,
        "head_dim": 4,
        "max_position_embeddings": known.positions,
        "eos_token_id": tokenizer.eos_token_id,
        "initializer_range": 0.3,
    }
    model: Any = Qwen3ForCausalLM(Qwen3Config(**sizes)) if qwen else LlamaForCausalLM(LlamaConfig(**sizes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def longbench_folder(folder: Path, words: int, records: int = 8) -> Path:
    """Records of every data set, and templates of our own wording, in the official schemas."""
    folder.mkdir()
    for name, task in TASKS.items():
        lines = []
        for number in range(records):
            context = " ".join(WORDS[(number + place) % len(WORDS)] for place in range(words))
            record = {
                "input": f"Where did boat {number} stay?",
                "context": context,
                "answers": ["at the pier"],
                "length": words,
                "dataset": name,
                "language": task.language if task.language in ("en", "zh") else "python",
                "all_classes": ["rain", "boats"] if task.metric == "classification_score" else None,
                "_id": f"{name}-{number}",
            }
            lines.append(json.dumps(record))
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    template = "Read.\n{context}\nNow answer.\nQuestion: {input}\nAnswer:"
    (folder / "dataset2prompt.json").write_text(json.dumps(dict.fromkeys(TASKS, template)), encoding="utf-8")
    (folder / "dataset2maxlen.json").write_text(json.dumps(dict.fromkeys(TASKS, 3)), encoding="utf-8")
    return folder


def kvpress_rows(
    repo: str, revision: str, config: str, split: str, task: str | None = None, count: int = 16
) -> HubRows:
    """In place of suite.tasks.hub_rows.read_rows: rows in the schema of kvpress's copy of RULER."""
    rows = tuple(
        {
            "context": " ".join(WORDS[(number + place) % len(WORDS)] for place in range(LONG)),
            "question": f"\nWhere did boat {number} stay?",
            "answer_prefix": " It stayed",
            "answer": ["at the pier"],
            "task": task,
            "max_new_tokens": 3,
        }
        for number in range(count)
    )
    return HubRows(repo, revision, rows, "0" * 64)


def miniature(experiment: Experiment, model: Path, data: Path) -> Experiment:
    """The experiment on two of its tasks and one sample of each, with this model, and these data in place of the hub's.

    Methods, presets, budgets, protocol, slice sizes and checks are the experiment's own.
    """
    values = experiment.model_dump(mode="json")
    values["model"] |= {"name": str(model), "revision": None, "device": "cpu", "dtype": "float32"}
    tasks: list[str] = []
    for section in ("ruler", "longbench", "needle"):
        part = values[section]
        if part is None:
            continue
        tasks = part["tasks"] = part["tasks"][:1] + part["tasks"][-1:] if section != "needle" else ["needle_300"]
        part["samples"] = 1
    if values["ruler"] is not None:
        values["ruler"] |= {"length": 300}
    if values["longbench"] is not None:
        values["longbench"] |= {"data": str(data), "templates": str(data), "partial": True, "revision": None}
    if values["needle"] is not None:
        values["needle"] |= {"essays": "alice", "max_new_tokens": 3}
    if experiment.game is not None:
        values["game"] |= {
            "tasks": tasks[:1],
            "prompts": 1,
            "coalitions_per_size": 12 // len(experiment.game.slice_sizes),
            "removal_samples": 1,
        }
    if values["checks"] is not None:
        values["checks"] |= {"tasks": tasks[:1], "game_tasks": None, "samples": 1, "masked_shares": [0.25]}
    if values["measure"] is not None:
        values["measure"] |= {"prompt_tokens": 200, "new_tokens": 2, "repeats": 1}
    values["profiles"] = (values["profiles"] or {}) | {
        "prompts": 1,
        "task_prompts": 1,
        "length": 300,
        "passkey_length": 400,
        "steps": 1,
        "period": 20,
    }
    return Experiment.model_validate_json(json.dumps(values))
