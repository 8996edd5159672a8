"""What decides the numbers of each source: its protocol, field by field, and where each is stated (`sources.toml`).

Does not know: whether a source did what its released code does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from reports.reported.table import PublishedValue

NOT_STATED = "not stated"
FIELDS = (
    *("chat", "truncation", "max_length", "newline_stop", "min_new_tokens", "eos", "new_tokens", "share", "split"),
    *("heads", "budget", "first_token", "query_aware", "dtype", "attention", "weights", "metric"),
)
"""Every source says something of each, NOT_STATED if nothing else. One more, samples, is their number in each data set,
stated where no official file decides it."""
ANY_METHOD = "any"


@dataclass(frozen=True)
class Fact:
    """value: of a field, NOT_STATED where it could not be read. where: the file, paper or thread that says so."""

    value: Any
    where: str

    @property
    def stated(self) -> bool:
        return bool(self.value != NOT_STATED)


@dataclass(frozen=True, eq=False)
class Source:
    """facts: field -> fact, a value by model being a table of models. methods: the source's word, or ANY_METHOD, ->
    parameter -> fact. protocol: the LongBench preset that says the same, "" for none."""

    paper: str
    facts: Mapping[str, Fact]
    methods: Mapping[str, Mapping[str, Fact]]
    note: str = ""
    benchmarks: tuple[str, ...] = ()
    protocol: str = ""

    def covers(self, row: PublishedValue) -> bool:
        return (
            row.paper == self.paper
            and self.note in row.note
            and (not self.benchmarks or row.benchmark in self.benchmarks)
        )

    def fact(self, field: str, model: str, method: str) -> Fact:
        """The fact of a published model and method."""
        fact = self.methods.get(method, {}).get(field, self.facts.get(field, Fact(NOT_STATED, "")))
        if isinstance(fact.value, Mapping):
            return Fact(fact.value[model], fact.where) if model in fact.value else Fact(NOT_STATED, "")
        return fact

    def parameters(self, method: str) -> dict[str, Fact]:
        """The method's parameters as far as they are stated, in the source's word for the method."""
        return {
            name: fact
            for name, fact in {**self.methods.get(ANY_METHOD, {}), **self.methods.get(method, {})}.items()
            if name not in FIELDS
        }


@cache
def sources() -> tuple[Source, ...]:
    text = files("reports.reported").joinpath("sources.toml").read_text(encoding="utf-8")
    return tuple(_source(entry) for entry in tomllib.loads(text)["source"])


def source_of(row: PublishedValue) -> Source | None:
    """The source whose protocol a published value has; None where none is described."""
    return next((source for source in sources() if source.covers(row)), None)


def protocol_of(row: PublishedValue) -> dict[str, dict[str, Any]]:
    """Field or parameter -> {"value", "where"} of one published value; {} where its source is not described."""
    source = source_of(row)
    if source is None:
        return {}
    facts = {name: source.fact(name, row.model, row.method) for name in source.facts}
    return {
        name: {"value": fact.value, "where": fact.where}
        for name, fact in {**facts, **source.parameters(row.method)}.items()
    }


def _source(entry: Mapping[str, Any]) -> Source:
    places = entry["places"]

    def facts(table: Mapping[str, Any]) -> dict[str, Fact]:
        return {
            name: Fact(fact["value"], places[fact["where"]] if fact["where"] else "") for name, fact in table.items()
        }

    return Source(
        paper=entry["paper"],
        facts=facts(entry["facts"]),
        methods={method: facts(table) for method, table in entry.get("methods", {}).items()},
        note=entry.get("note", ""),
        benchmarks=tuple(entry.get("benchmarks", ())),
        protocol=entry["protocol"],
    )
