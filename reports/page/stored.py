"""What a run stores for readers beside its answers: prompts.jsonl and kept_tokens.jsonl (suite/run/shown.py).

Both may be absent, and each may lack samples: an older version stored neither.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from reports.errors import ReportError

PROMPTS, KEPT = "prompts.jsonl", "kept_tokens.jsonl"
SampleKey: TypeAlias = tuple[str, str, int, str]  # benchmark, task, seed, sample_id
Line: TypeAlias = Mapping[str, Any]


def sample_key(line: Line) -> SampleKey:
    return line["benchmark"], line["task"], line["seed"], line["sample_id"]


def prompts_of(run_dir: Path) -> dict[SampleKey, Line]:
    """Lines of prompts.jsonl by sample: text and, where it was read after the compression, question."""
    return {sample_key(line): line for line in _lines(run_dir / PROMPTS, _is_prompt)}


def kept_of(run_dir: Path) -> dict[SampleKey, list[Line]]:
    """Lines of kept_tokens.jsonl by sample: a run that grew has several, each with cells of its own."""
    by_sample: dict[SampleKey, list[Line]] = defaultdict(list)
    for line in _lines(run_dir / KEPT, _is_kept):
        by_sample[sample_key(line)].append(line)
    return dict(by_sample)


def _lines(path: Path, is_right: Callable[[Line], bool]) -> Iterator[Line]:
    """Whole lines; what a kill left of the last one is no line."""
    if not path.exists():
        return
    remedy = "delete it; the page then says that its prompts were not stored"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReportError(f"{path.parent.name}/{path.name}: cannot be read ({error.strerror})") from None
    for number, text in enumerate(data.split(b"\n")[:-1], start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ReportError(f"{path.parent.name}/{path.name} line {number}: not JSON ({error}); {remedy}") from None
        named = isinstance(line, dict) and isinstance(line.get("seed"), int)
        if not named or not all(isinstance(line.get(key), str) for key in ("benchmark", "task", "sample_id")):
            raise ReportError(f"{path.parent.name}/{path.name} line {number}: names no sample; {remedy}")
        if not is_right(line):
            raise ReportError(f"{path.parent.name}/{path.name} line {number}: not of this file's form; {remedy}")
        yield line


def _is_prompt(line: Line) -> bool:
    return isinstance(line.get("text"), str) and isinstance(line.get("question", ""), str)


def _is_kept(line: Line) -> bool:
    numbers = all(isinstance(line.get(key), int) for key in ("seq_len", "num_layers", "num_kv_heads"))
    texts = all(isinstance(line.get(key), str) for key in ("patterns", "which"))
    tokens, cells = line.get("tokens"), line.get("cells")
    listed = isinstance(tokens, list) and all(isinstance(token, str) for token in tokens)
    celled = isinstance(cells, list) and all(isinstance(cell, Mapping) and "method" in cell for cell in cells)
    return numbers and texts and listed and celled and len(tokens or ()) == line["seq_len"]
