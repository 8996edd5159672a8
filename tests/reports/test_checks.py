"""The section of the report from a record written by hand: every kind of row, in Markdown and LaTeX; refusals."""

import copy
import json

import pytest

from reports.checks import check_checks, checks_table
from reports.errors import ReportError
from reports.latex import to_latex
from reports.report import write_report
from reports.table import to_markdown

RULES = {
    "mae": {"sentence": "the MAE is below 1/n", "unit": "x 1/n", "digits": 2, "sign": False},
    "gain": {"sentence": "the difference is above 0", "unit": "points", "digits": 1, "sign": True},
    "reached": {"sentence": "the bar is passed", "unit": "coalitions", "digits": 0, "sign": False},
    "unused": {"sentence": "nobody asks", "unit": "", "digits": 0, "sign": False},
}
RECORD = {
    "kind": "checks of claims",
    "model": "a_model",
    "tasks": ["vt", "qa_1"],
    "game_tasks": ["vt"],
    "num_players": 16,
    "settings": {"samples": 12, "kv_budget": "20%", "game": {"prompts": 4, "utility": "probability"}},
    "rules": RULES,
    "rows": [
        {"check": "stability", "task": "vt", "what": "MAE below 1/n?", "rule": "mae", "verdict": "holds", "n": 16,
         "of": "heads", "coalitions": 1200, "score": 0.5, "low": 0.25, "high": 0.75},
        {"check": "stability", "what": "How many?", "rule": "reached", "verdict": "undecided", "n": 100,
         "planned": 1200, "of": "random orders", "score": 900, "low": 300, "high": None},
        {"check": "alpha", "what": "alpha = 2 better?", "rule": "gain", "verdict": "does not hold", "n": 24,
         "of": "samples", "score": -2.0, "low": -3.5, "high": -0.01, "arm": {"score": 80.0},
         "base": {"score": 82.0, "low": 70.0, "high": 90.0}, "left_out": {"qa_1": "no valid profile"}},
        {"check": "bits", "what": "4 bits better?", "rule": "gain", "verdict": "undecided", "n": 24, "of": "samples",
         "score": 1.0, "low": 0.5, "high": 1.5, "why": "bytes differ by 9.0 %",
         "bytes": {"arm": 1200.0, "base": 1100.0}, "slots": {"arm": 300.0, "base": 64.0}},
        {"check": "profiles", "what": "Own better?", "not_run": "one task_alone is its own mean & 100 %"},
    ],
}  # fmt: skip


def test_markdown_has_a_verdict_and_an_interval_in_every_row():
    text = to_markdown(checks_table(RECORD))
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(lines) == 1 + len(RECORD["rows"])
    assert "| MAE below 1/n? (vt) | 0.50 x 1/n [0.25, 0.75] | holds | 16 heads, 1,200 coalitions |" in text
    assert "| 900 [300, > 1,200] | undecided | 100 random orders |" in text
    assert "−2.0 points [−3.5, 0.0]; 80.0 against 82.0 [70.0, 90.0]" in text
    assert "does not hold (without qa_1: no valid profile)" in text
    assert "undecided (bytes differ by 9.0 %)" in text and "300 against 64 slots; 1,200 against 1,100 bytes" in text
    assert "not run (one task_alone is its own mean & 100 %)" in text
    assert "Check 1: holds if the MAE is below 1/n." in text and "Checks 4, 7: holds if the difference" in text
    assert "nobody asks" not in text and "20% of the prompt" in text and "12 test samples" in text


def test_latex_wraps_its_sentences_and_loses_no_row():
    text = to_latex(checks_table(RECORD))
    rows = [line for line in text.splitlines() if line.count(" & ") == 4]
    assert len(rows) == 1 + len(RECORD["rows"]) and text.count(r"\midrule") == 4
    assert r"its own mean \& 100 \%" in text and r"\parbox[t]" in text


def test_a_run_with_checks_has_the_section(bare_run):
    (bare_run / "checks.json").write_text(json.dumps(RECORD), encoding="utf-8")
    folder = write_report(bare_run)
    assert "## Checks of the paper's claims" in (folder / "report.md").read_text(encoding="utf-8")
    assert (folder / "tables" / "checks.tex").read_text(encoding="utf-8").count(r"\begin{tabular}") == 1
    (bare_run / "checks.json").unlink()
    assert "Checks of the paper" not in (write_report(bare_run) / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("rows"), "list of at least one row"),
        (lambda r: r.pop("rules"), "rules by name"),
        (lambda r: r.pop("settings"), "settings"),
        (lambda r: r["rows"][0].pop("what"), "row 1: needs check and what"),
        (lambda r: r["rows"][0].update(verdict="maybe"), "a verdict of holds"),
        (lambda r: r["rows"][2].update(rule="none"), "row 3: needs a rule of mae"),
        (lambda r: r["rows"][0].update(low="0.1"), "low must be a finite number"),
    ],
)
def test_a_damaged_record_is_named(change, message):
    record = copy.deepcopy(RECORD)
    change(record)
    with pytest.raises(ReportError, match=message):
        check_checks(record, "run/checks.json")
    check_checks(RECORD, "run/checks.json")
