"""Writes a run's page: `page.html`, and `page_data/` beside it where the samples are too large to stand inside."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from reports.findings import findings
from reports.page import tables
from reports.page.embed import code_text, json_text, policy
from reports.page.pictures import pictures
from reports.page.samples import samples_of
from reports.rundir import Run
from reports.text import visible

PAGE, BESIDE = "page.html", "page_data"
INSIDE = 20_000_000  # bytes of samples, compressed, that the page holds itself
LIBRARIES = ("vega.min.js", "vega-interpreter.min.js", "vega-lite.min.js", "tabulator.min.js")
CODE = ("text.js", "chunks.js", "tables.js", "pictures.js", "kept.js", "samples.js", "page.js")
STYLES = ("vendor/tabulator.min.css", "assets/page.css")


def write_page(run: Run, folder: Path) -> Path:
    """Write the page into a folder and return its path."""
    samples = samples_of(run)
    beside = sum(map(len, samples.chunks)) > INSIDE
    if beside:
        _write_chunks(samples.chunks, folder / BESIDE)
    else:
        shutil.rmtree(folder / BESIDE, ignore_errors=True)
    styles = [code_text(_read(name)) for name in STYLES]
    scripts = [code_text(_read(f"vendor/{name}")) for name in LIBRARIES]
    scripts.append(code_text("\n".join(_read(f"assets/{name}") for name in CODE)))
    data = _content(run) | {"samples": samples.index, "beside": BESIDE if beside else None}
    html = _template().render(
        title=visible(data["title"]),
        policy=policy(scripts, styles, beside),
        styles=styles,
        scripts=scripts,
        data=json_text(data),
        chunks=[] if beside else [json_text(chunk) for chunk in samples.chunks],
        sections=_sections(data),
    )
    path = folder / PAGE
    path.write_text(html, encoding="utf-8")
    return path


def _write_chunks(chunks: list[str], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, chunk in enumerate(chunks):
        (folder / f"{number:04}.js").write_text(f'"use strict";cokvChunk({number},"{chunk}");\n', encoding="ascii")


def _content(run: Run) -> dict[str, Any]:
    """All that the page says, but for the samples."""
    name = run.spec.get("name") or (run.spec.get("about") or {}).get("name")
    listed = (tables.score_rows(run), tables.difference_rows(run), tables.memory_rows(run), tables.latency_rows(run))
    return {
        "title": str(name) if isinstance(name, str) and name else run.path.name,
        "finished": run.finished,
        "facts": _facts(run),
        "overview": tables.overview(run),
        "found": findings(run.metrics, run.labels),
        "claims": tables.claims(run),
        "checks": tables.checks(run),
        "tables": {table["id"]: table for table in listed if table},
        "pictures": pictures(run),
        "spec": _flat(run.spec),
    }


def _facts(run: Run) -> list[list[str]]:
    """What was run, in a few lines."""
    about = run.spec.get("about")
    about = about if isinstance(about, Mapping) else {}
    records = run.records
    tasks = {(r["benchmark"], r["task"]) for r in records}
    samples = {(r["benchmark"], r["task"], r["seed"], r["sample_id"]) for r in records}
    tokens = [r["prompt_tokens"] for r in records if isinstance(r.get("prompt_tokens"), int | float)]
    facts = [
        ["Run", run.path.name],
        ["Model", str(about.get("model") or "not stated")],
        ["Tasks", str(len(tasks))],
        ["Samples", f"{len(samples):,}"],
        ["Answers", f"{len(records):,}"],
    ]
    facts += [["Prompt tokens", f"{min(tokens):,} to {max(tokens):,}"]] if tokens else []
    facts += [["Question when tokens are chosen", _either(records, "query_aware", {True: "seen", False: "not seen"})]]
    facts += [["First answer token from", _either(records, "first_token", {})]]
    if isinstance(about.get("description"), str) and about["description"]:
        facts.append(["Description", about["description"]])
    return facts


def _either(records: list[dict[str, Any]], field: str, words: Mapping[Any, str]) -> str:
    return " and ".join(sorted({words.get(r[field], str(r[field])) for r in records}))


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """Leaves of nested mappings as [key, text]; titles and variants, which tables show, left out."""
    leaves: list[list[str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if name in ("about.titles", "about.variants"):
            continue
        if isinstance(item, Mapping):
            leaves += _flat(item, f"{name}.")
        else:
            text = ", ".join(map(str, item)) if isinstance(item, list) else str(item)
            leaves.append([name, text if len(text) <= 300 else f"{text[:280]}… ({len(text)} characters)"])
    return leaves


def _sections(data: Mapping[str, Any]) -> dict[str, str]:
    """Titles of the sections that the run has something for, by id."""
    shown = {
        "overview": "Overview",
        "verdicts": "Verdicts",
        "scores": "Scores",
        "differences": "Differences" if "differences" in data["tables"] else "",
        "memory": "Memory",
        "latency": "Latency" if "latency" in data["tables"] else "",
        "heads": "Heads" if data["pictures"]["heads"] or data["pictures"]["masking"] else "",
        "samples": "Samples",
        "about": "About the run",
    }
    return {name: title for name, title in shown.items() if title}


def _read(name: str) -> str:
    return files("reports.page").joinpath(name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("templates/page.html.j2")
