"""The protocol of a run's cell, in the fields of `reported/sources.toml`, and where a published one differs from it.

Read from spec.json and the records alone. Does not know: what neither of them says; such a field is None here, and is
listed as not known, never as equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.chat import WITH_TEMPLATE
from reports.kv_budget import percent_of
from reports.protocol_difference import Difference, compare, part
from reports.records import FULL, Record
from reports.reported.names import model_name, models
from reports.reported.sources import FIELDS, NOT_STATED, Fact, Source
from reports.reported.table import PublishedValue
from reports.run_parameters import parameter_differences
from reports.rundir import Run

# LongBench's own rule: the data sets whose prompts stay bare where the others are wrapped in a chat template.
BARE = ("trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p")
NOT_OF_FULL = ("heads", "budget", "first_token")  # a full cache has no budget, and its first token is the same
KVPRESS_COPY = "as kvpress publishes RULER"  # how the note begins of samples from its copy on the hub


def differences(
    run: Run, cell: Mapping[str, Any], records: Sequence[Record], published: PublishedValue, source: Source | None
) -> list[Difference]:
    """Every field in which a cell's protocol differs from the published value's, or that one of them does not state.

    cell: a row of the metrics, of one task; records: its records.
    """
    model = str(_about(run).get("model", ""))
    out = _model_differences(model, published)
    if published.benchmark == "RULER":
        length = str(part(run.spec, "benchmarks", "ruler").get("length"))
        out.append(Difference("length", length, NOT_STATED, published.source, known=False))
    if source is None:
        return [*out, Difference("protocol", "as in spec.json", NOT_STATED, known=False)]
    here = _fields(run, cell, records)
    there = {name: source.fact(name, published.model, published.method) for name in FIELDS}
    for name in FIELDS:
        if (name in NOT_OF_FULL and cell["method"] == FULL) or name in ("share", "split"):
            continue
        if name == "heads" and published.model in models() and models()[published.model].mha:
            continue
        out += compare(name, here[name], _there(name, there, cell["task"]), there[name].where)
    out += _sample_differences(run, cell, there, source.fact("samples", published.model, published.method))
    if cell["method"] != FULL:
        out += parameter_differences(run, cell, source.parameters(published.method), published.method, source)
    return out


def _about(run: Run) -> Mapping[str, Any]:
    about = run.spec.get("about")
    return about if isinstance(about, Mapping) else {}


def _model_differences(model: str, published: PublishedValue) -> list[Difference]:
    known = models().get(published.model)
    name, _ = model_name(model)
    if known is None or name.lower() not in (other.lower() for other in known.names):
        return [Difference("model", name or "not named", published.model, "")]
    return [Difference("model details", name, known.version, published.source, known=False)] if known.version else []


def _fields(run: Run, cell: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """The run's side of FIELDS; None for what it does not say."""
    protocol = part(run.spec, "benchmarks", "longbench", "protocol") if cell["benchmark"] == "longbench" else {}
    model, task = part(run.spec, "model"), cell["task"]
    share = percent_of(cell["kv_budget"]) is not None
    common: dict[str, Any] = dict.fromkeys(FIELDS)
    common |= {
        "heads": "KV heads",
        "budget": "share, window included" if share else "slots, window included",
        "first_token": cell["first_token"],
        "query_aware": cell["query_aware"],
        "dtype": model.get("dtype"),
        "attention": model.get("attention"),
        "weights": _weights(run),
        "metric": "official",
    }
    if cell["benchmark"] == "ruler":
        shorter = part(run.spec, "benchmarks", "ruler").get("max_new_tokens")
        # The official generator may have written a template into its data, which is not recorded; kvpress's copy has
        # none, and its records say whether it was wrapped.
        notes = [str(note) for record in records for note in record.get("notes") or []]
        copied = any(note.startswith(KVPRESS_COPY) for note in notes)
        return common | {
            "chat": WITH_TEMPLATE in notes if copied else None,
            "truncation": "none",
            "newline_stop": False,
            "min_new_tokens": 0,
            "new_tokens": "official" if shorter is None else f"at most {shorter}",
        }
    stopping = protocol.get("newline_stop")
    stops = isinstance(stopping, list) and task in stopping
    cut = protocol.get("cut_at") or protocol.get("strip")
    return common | {
        "chat": any(WITH_TEMPLATE in (record.get("notes") or []) for record in records),
        "truncation": protocol.get("truncation"),
        "max_length": _max_length(protocol, str(_about(run).get("model", ""))),
        "newline_stop": stops,
        "min_new_tokens": max(least, int(stops)) if isinstance(least := protocol.get("min_new_tokens"), int) else None,
        "eos": protocol.get("eos"),
        "new_tokens": _new_tokens(protocol, task),
        "metric": "official, on answers that the protocol cuts" if cut else "official",
    }


def _weights(run: Run) -> str | None:
    """Not known of a folder of whatever weights; a file or a hub name says it."""
    _, stored = model_name(str(_about(run).get("model", "")))
    model = part(run.spec, "model")
    if model.get("gguf") or stored:
        return f"dequantized from {stored or 'GGUF'}"
    return "as published" if model.get("revision") else None


def _max_length(protocol: Mapping[str, Any], model: str) -> int | None:
    """Prompt tokens kept for this model: the last matching part of its name decides, as when the prompts were made."""
    length = protocol.get("max_length")
    for piece, value in _pairs(protocol.get("max_lengths")):
        if piece.lower() in model.lower():
            length = value
    return length if isinstance(length, int) else None


def _pairs(value: Any) -> list[tuple[str, Any]]:
    """Names and values as JSON has them."""
    items = value if isinstance(value, list) else []
    return [(str(item[0]), item[1]) for item in items if isinstance(item, list) and len(item) == 2]


def _new_tokens(protocol: Mapping[str, Any], task: str) -> Any:
    own, extra = protocol.get("max_new_tokens"), protocol.get("extra_new_tokens") or 0
    if isinstance(own, list):
        own = dict(_pairs(own)).get(task)
    if not protocol:
        return None
    return own if own is not None else f"official and {extra} more" if extra else "official"


def _there(name: str, facts: Mapping[str, Fact], task: str) -> Any:
    """The published side in the terms of `_fields`: what it means for this data set; None where it is not stated."""
    fact, stops = facts[name], facts["newline_stop"]
    if not fact.stated:
        return None
    if name == "min_new_tokens":  # where an answer ends at a newline, it has one token at least
        return max(fact.value, int(stops.stated and task in stops.value))
    if name == "chat":
        return fact.value == "always" or (fact.value == "task" and task not in BARE)
    if name == "newline_stop":
        return task in fact.value
    return fact.value


def _sample_differences(
    run: Run, cell: Mapping[str, Any], there: Mapping[str, Fact], samples: Fact
) -> list[Difference]:
    """How many samples, and which."""
    out: list[Difference] = []
    data = part(run.spec, "data", "longbench", "data", cell["task"])
    of, subset = data.get("official_count"), data.get("subset")
    here = f"{cell['n']}" + (f" of {of}" if of else "") + (", MiniLongBench's" if subset == "mini" else "")
    if samples.stated:
        out += [] if cell["n"] == samples.value else [Difference("samples", here, str(samples.value), samples.where)]
    elif not there["share"].stated or not isinstance(of, int):
        out.append(Difference("samples", here, NOT_STATED, known=False))
    elif cell["n"] != (expected := round(there["share"].value * of)):
        out.append(Difference("samples", here, f"{expected} of {of}", there["share"].where))
    split = there["split"]
    if split.stated and split.value != "none":
        longbench = part(run.spec, "experiment", "longbench")
        own = (
            f"by hash of the id, seed {longbench.get('split_seed', 0)}, {longbench.get('validation_share', 0.15):.0%} "
        )
        out.append(Difference("split", own + "for validation", str(split.value), split.where))
    return out
