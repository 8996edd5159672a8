"""benchmarks/pooling.py draws the pairs that a run's metrics hold, and names those that they lack."""

import json
from pathlib import Path
from typing import Any

import pooling
import pytest

from reports.aggregate import SCHEMA


def average(method: str, preset: str, kv_budget: int | None, mean: float | None, benchmark: str = "ruler") -> Any:
    row = {
        "benchmark": benchmark,
        "method": method,
        "preset": preset,
        "kv_budget": kv_budget,
        "query_aware": True,
        "first_token": "prefill",
    }
    return row if mean is None else {**row, "mean": mean, "low": mean - 3, "high": mean + 3}


def averages() -> list[Any]:
    """SnapKV and H2O with and without pooling at two budgets, TOVA without it."""
    rows = []
    for benchmark in ("ruler", "longbench_mini"):
        rows.append(average("full", "normalized", None, 90.0, benchmark))
        for budget in (64, 128):
            rows.append(average("snapkv", "normalized", budget, 50.0 + budget / 8, benchmark))
            rows.append(average("snapkv", "unpooled", budget, 10.0, benchmark))
            rows.append(average("h2o", "normalized", budget, 20.0, benchmark))
            rows.append(average("h2o", "pooled", budget, 15.0, benchmark))
            rows.append(average("tova", "normalized", budget, 5.0, benchmark))
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "run", averages())


def write(run: Path, rows: list[Any], schema: int = SCHEMA) -> Path:
    run.mkdir(exist_ok=True)
    (run / "metrics.json").write_text(json.dumps({"schema": schema, "averages": rows}))
    return run


def test_pairs_have_the_gain_of_pooling_whichever_preset_has_it() -> None:
    pairs, missing = pooling.pairs_of(averages())
    gains = {(pair.benchmark, pair.method, pair.kv_budget): pair.gain for pair in pairs}
    assert gains == {
        (benchmark, method, budget): 40.0 + budget / 8 if method == "snapkv" else -5.0
        for benchmark in ("ruler", "longbench_mini")
        for method in ("snapkv", "h2o")
        for budget in (64, 128)
    }
    assert missing == ["TOVA: left out, the run has no tova of preset pooled"]


def test_a_pair_without_a_score_is_left_out_and_named() -> None:
    rows = [r for r in averages() if (r["benchmark"], r["method"], r["kv_budget"]) != ("ruler", "h2o", 64)]
    rows += [average("h2o", "normalized", 64, 20.0), average("h2o", "pooled", 64, None)]
    pairs, missing = pooling.pairs_of(rows)
    assert ("ruler", "h2o", 64) not in {(pair.benchmark, pair.method, pair.kv_budget) for pair in pairs}
    assert "H2O, RULER, 64: left out, not both have a score" in missing


def test_the_figure_has_a_panel_per_benchmark_and_a_line_per_method_and_budget() -> None:
    pairs, _ = pooling.pairs_of(averages())
    axes = pooling.pooling_figure(pairs, averages()).axes
    assert [axis.get_title() for axis in axes] == ["RULER", "LongBench stand-ins"]
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == ["SnapKV, 64", "SnapKV, 128", "H2O, 64", "H2O, 128"]
    assert [text.get_text() for text in axes[0].texts] == ["+48", "+56", "\N{MINUS SIGN}5", "\N{MINUS SIGN}5"]


def test_the_command_writes_the_picture_and_says_what_is_missing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pooling.main([str(run), "--out", str(tmp_path / "out")])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"pooling.png", "pooling.svg"}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "TOVA: left out, the run has no tova of preset pooled"
    assert "SnapKV, RULER, 64: 10.0 without, 58.0 with pooling (+48.0)" in printed


def test_nothing_is_drawn_of_a_run_that_has_no_pair(tmp_path: Path) -> None:
    run = write(tmp_path / "bare", [r for r in averages() if r["preset"] == "normalized"])
    with pytest.raises(SystemExit, match="no picture"):
        pooling.main([str(run)])
    assert [path.name for path in run.iterdir()] == ["metrics.json"]


def test_what_cannot_be_read_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no readable metrics\.json"):
        pooling.main([str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=f"has schema 7, expected {SCHEMA}"):
        pooling.main([str(write(run, averages(), schema=7))])
    mixed = [*averages(), {**averages()[0], "query_aware": False}]
    with pytest.raises(SystemExit, match="holds 2 protocols"):
        pooling.main([str(write(run, mixed))])
