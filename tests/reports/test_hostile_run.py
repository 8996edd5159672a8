"""A run with hostile text in every field: its report is safe, its LaTeX compiles, its screen is readable."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import unicodedata
from pathlib import Path

import pytest
from pyarrow import parquet
from rich.console import Console

from reports import aggregate, terminal_table, write_report
from reports.render_tables import render

NASTY = (
    "<script>alert(1)</script> | `code` [link](javascript:x) ![i](http://x/y.png) $\\frac{1}$ & \\input{x} % # _ ^ "
    "~ {\n"
    "# heading\r\n\x1b[31mred\x07\x00 \N{RIGHT-TO-LEFT OVERRIDE}olleh\u200b \ud800 方法 🙂 -- ''"
)
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn"}


def nasty(name: str) -> str:
    return f"../{name} {NASTY}"


@pytest.fixture
def hostile_run(run_dir: Path) -> Path:
    """The synthetic run, its texts replaced: names, titles, answers, reasons, notes, tasks of every file."""
    records = [json.loads(line) for line in (run_dir / "predictions.jsonl").read_text().splitlines()]
    methods = {name: name if name in ("full", "snapkv") else nasty(name) for name in {r["method"] for r in records}}
    for record in records:
        task = record["task"]
        record |= {
            "benchmark": nasty("ruler"),
            "task": nasty(task),
            "method": methods[record["method"]],
            "preset": "normalized" if record["method"] in ("full", "snapkv") else nasty("preset"),
            "sample_id": nasty(record["sample_id"]),
            "prediction": nasty("answer") * 50,
            "references": [nasty("reference")],
            "notes": [nasty("note")],
        }
        if record["infeasible"]:
            record["infeasible"] = nasty("reason")
    records = [json.loads(json.dumps(record)) for record in records]
    spec = json.loads((run_dir / "spec.json").read_text())
    spec |= {"name": nasty("name"), nasty("key"): {nasty("inner"): nasty("value")}, "methods": [{"method": "full"}]}
    spec["about"] = {"titles": {name: f"{nasty('title')} {name[:9]}" for name in methods.values()}, "model": nasty("m")}
    stability = json.loads((run_dir / "stability.json").read_text())
    stability["tasks"] = {nasty(task): entry for task, entry in stability["tasks"].items()}
    stability["utility"] = nasty("utility")
    measurements = json.loads((run_dir / "measurements.json").read_text())
    measurements["machine"] = {nasty("machine"): nasty("processor")}
    measurements["left_out"] = [{"method": nasty("left"), "why": nasty("why")}]
    for row in measurements["decode"]:
        row["method"], row["runtime"] = nasty(row["method"]), nasty(row["runtime"])
    for name, value in (("spec", spec), ("stability", stability), ("measurements", measurements)):
        (run_dir / f"{name}.json").write_text(json.dumps(value))
    (run_dir / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (run_dir / "metrics.json").write_text(json.dumps(aggregate(records)))
    return run_dir


def hidden(text: str) -> set[str]:
    return {character for character in text if character not in "\n" and unicodedata.category(character) in HIDDEN}


def test_the_report_of_a_hostile_run_is_safe(hostile_run: Path) -> None:
    folder = write_report(hostile_run)
    inside = [path for path in hostile_run.parent.rglob("*") if path.is_file()]
    assert all(hostile_run in path.parents for path in inside), "nothing is written outside the run's folder"
    for page in folder.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert not hidden(text), page.name
        assert not re.search(r"(?<!\\)<(script|img|/script)", text), page.name
        assert not re.search(r"(?<!\\)\]\(javascript", text) and "](http" not in text, page.name
        headings = [line for line in text.splitlines() if line.startswith("#")]
        assert not any("heading" in line and line.startswith("# heading") for line in headings), page.name
    for page in folder.rglob("*.tex"):
        assert page.read_bytes().isascii(), page.name
    for page in folder.rglob("*.csv"):
        rows = list(csv.reader(io.StringIO(page.read_text(encoding="utf-8"))))
        assert len({len(row) for row in rows}) == 1, page.name
        assert parquet.read_table(page.with_suffix(".parquet")).num_rows == len(rows) - 1, page.name


def test_the_screen_shows_what_it_would_obey(hostile_run: Path) -> None:
    console = Console(file=io.StringIO(), width=100)
    terminal_table(hostile_run, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert not hidden(text) and "<U+001B>" in text and "<U+202E>" in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed (texlive-latex-base)")
@pytest.mark.slow
def test_every_table_of_a_hostile_run_compiles(hostile_run: Path, tmp_path: Path) -> None:
    write_report(hostile_run)
    for columns in (1, 2):
        assert render(hostile_run, tmp_path / f"{columns}.pdf", columns=columns).stat().st_size > 0
