"""The report folder and the screen table of a run; and what is said of a run that is not whole."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from full_disk import full_disk
from rich.console import Console

from reports import ReportError, aggregate, load_run, terminal_table, write_report
from reports.__main__ import main

ROOT = Path(__file__).parents[2]


def screen(run_dir: Path, width: int | None = None, **more: Any) -> str:
    """What is printed: to a terminal of `width`, or to a file where it is None."""
    console = Console(file=io.StringIO(), force_terminal=width is not None, width=width or 100)
    terminal_table(run_dir, console, **more)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_report_holds_every_part(whole_report: Path) -> None:
    folder = whole_report
    assert folder.name == "report"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    tables = {
        "claims",
        "overview",
        "scores_ruler",
        "differences",
        "differences_by_task",
        "memory",
        "stability",
        "head_removal",
        "decode",
        "overview_intervals",
        "scores_ruler_intervals",
        "specification",
    }
    figures = {"overview", "scores_ruler", "head_scores", "head_removal"}
    assert names == (
        {"report.md", "page.html", "claims.json", "tables/tables.tex"}
        | {f"tables/{name}.{end}" for name in tables for end in ("md", "tex", "csv", "parquet")}
        | {f"{name}.{end}" for name in figures for end in ("png", "pdf")}
    )
    text = (folder / "report.md").read_text()
    assert "synthetic data" in text and "Left out" not in text
    for target in re.findall(r"\]\((.*?)\)", text):
        assert (folder / target).is_file(), f"{target} is shown and not there"


def test_methods_have_the_titles_and_the_order_of_the_spec(bare_run: Path) -> None:
    path = bare_run / "spec.json"
    spec = json.loads(path.read_text())
    spec |= {"methods": [{"method": "full"}, {"method": "cokv"}, {"method": "adakv"}]}
    spec["about"] = {"titles": {"adakv": "Ada", "cokv": "Co", "snapkv": "Snap"}}
    path.write_text(json.dumps(spec))
    expected = ["full", "streamingllm", "Snap", "Ada", "pyramidkv", "Co", "duoattention"]
    assert methods_of(bare_run) == expected, "by family, in it as the experiment lists them"
    assert "about.titles" not in (bare_run / "report" / "report.md").read_text()


def test_a_run_without_titles_shows_names(bare_run: Path) -> None:
    (bare_run / "spec.json").write_text('{"name": "synthetic"}')
    assert methods_of(bare_run) == ["full", "streamingllm", "snapkv", "adakv", "pyramidkv", "cokv", "duoattention"]


def methods_of(run_dir: Path) -> list[str]:
    """First column of the score table, each method once."""
    rows = (write_report(run_dir) / "tables" / "scores_ruler.md").read_text().splitlines()
    names = dict.fromkeys(row.split("|")[1].strip() for row in rows if row.startswith("| "))
    return [name for name in names if name and "*" not in name]


def test_no_path_of_this_machine_is_in_the_report(whole_report: Path) -> None:
    for path in whole_report.rglob("*.*"):
        assert str(whole_report.parents[1]).encode() not in path.read_bytes(), path.name


def test_absent_parts_are_left_out_with_one_line_each(bare_run: Path) -> None:
    folder = write_report(bare_run)
    left_out = [line for line in (folder / "report.md").read_text().splitlines() if line.startswith("Left out")]
    assert left_out == [
        "Left out: the run has no stability.json.",
        "Left out: the run has no measurements.json.",
    ]
    assert not (folder / "tables" / "decode.md").exists() and not (folder / "head_scores.png").exists()


def test_a_second_report_is_the_same_and_replaces_the_first(run_dir: Path, whole_report: Path) -> None:
    first = {path.name: path.read_bytes() for path in whole_report.rglob("*.*")}
    (run_dir / "report").mkdir()
    (run_dir / "report" / "stale.md").write_text("old")
    second = {path.name: path.read_bytes() for path in write_report(run_dir).rglob("*.*")}
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert [path.name for path in run_dir.iterdir() if path.name.startswith(".")] == [], "a draft was left behind"


def test_a_failing_report_leaves_the_last_one_in_place(run_dir: Path) -> None:
    (run_dir / "report").mkdir()
    (run_dir / "report" / "report.md").write_text("the last one")
    (run_dir / "stability.json").write_text("{")
    with pytest.raises(ReportError):
        write_report(run_dir)
    assert (run_dir / "report" / "report.md").read_text() == "the last one"


def test_the_screen_table_is_plain_and_at_most_100_wide_in_a_file(run_dir: Path) -> None:
    text = screen(run_dir)
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "…" not in text, "a cell was cut"
    cokv = next(line for line in text.splitlines() if line.startswith("CoKV"))
    assert re.search(r"\d\* \[", cokv), "the best average is starred and has its interval"


def test_on_a_terminal_the_best_is_bold(run_dir: Path) -> None:
    text = screen(run_dir, width=120)
    assert "\x1b[1m" in text and "starred" not in text


@pytest.mark.parametrize("width", [60, 100, 200])
def test_every_task_is_on_the_screen_at_any_width(run_dir: Path, width: int) -> None:
    text = re.sub(r"\x1b\[[0-9;]*m", "", screen(run_dir, width))
    for part in ("multikey", "multiquery", "multivalue", "single", "cwe", "vt", "qa", "Average"):
        assert part in text


def test_a_screen_that_knows_only_ascii_is_no_crash(bare_run: Path) -> None:
    run_dir = bare_run
    done = subprocess.run(
        [sys.executable, "-m", "reports", str(run_dir)],
        cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(run_dir / "report"), "the folder is printed last"


def test_an_unfinished_run_is_refused_and_can_be_asked_for(bare_run: Path) -> None:
    run_dir = bare_run
    (run_dir / "done.json").unlink()
    with pytest.raises(ReportError, match=r"not finished: it holds no done\.json; run `cokv reproduce` again"):
        write_report(run_dir)
    (run_dir / "metrics.json").unlink()
    with (run_dir / "predictions.jsonl").open("a") as file:
        file.write('{"benchmark": "ruler", "ta')
    folder = write_report(run_dir, allow_unfinished=True)
    assert "This run is not finished" in (folder / "report.md").read_text()
    assert "This run is not finished" in screen(run_dir, allow_unfinished=True)


def test_a_full_disk_is_one_line_and_leaves_the_last_report(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run_dir / "report").mkdir()
    (run_dir / "report" / "report.md").write_text("the last one")
    with full_disk("*.pdf"):
        assert main([str(run_dir)]) == 2
    assert capsys.readouterr().err.startswith("error: No space left on device; ")
    assert (run_dir / "report" / "report.md").read_text() == "the last one"
    assert main([str(run_dir)]) == 0


def _tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _break_line(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:30], *lines[2:]]) + "\n")


def _change_score(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(lines[0]), "score": 12.5}), *lines[1:]]) + "\n")


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_text("")


def _binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00\n")


def _list(path: Path) -> None:
    path.write_text("[1]\n")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _nest(path: Path) -> None:
    path.write_text("[" * 100_000)


def _long_number(path: Path) -> None:
    path.write_text('{"schema": ' + "1" * 10_000 + "}")


def _old_schema(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 0}))


BROKEN: list[tuple[str, Callable[[Path], None], str]] = [
    ("predictions.jsonl", _tear, "last line is torn"),
    ("predictions.jsonl", _break_line, "line 2: not JSON"),
    ("predictions.jsonl", _change_score, "not made from the predictions.jsonl"),
    ("predictions.jsonl", _remove, "holds no predictions.jsonl"),
    ("predictions.jsonl", _empty, "holds no predictions yet"),
    ("predictions.jsonl", _binary, "line 1: not UTF-8"),
    ("predictions.jsonl", _list, "line 1: expected one JSON object"),
    ("predictions.jsonl", _folder, "cannot be read"),
    ("metrics.json", _tear, "metrics.json: not JSON"),
    ("metrics.json", _nest, "nested too deeply"),
    ("metrics.json", _long_number, "not JSON of a run"),
    ("metrics.json", _remove, "holds no metrics.json"),
    ("metrics.json", _old_schema, "schema 0, expected 2; run `python -m reports.aggregate_again"),
    ("spec.json", _remove, "not a run folder"),
    ("spec.json", _binary, "not UTF-8"),
    ("spec.json", _list, "expected a JSON object, got list"),
    ("stability.json", _tear, "stability.json: not JSON"),
    ("measurements.json", _empty, "measurements.json: not JSON"),
]


@pytest.mark.parametrize(("name", "damage", "message"), BROKEN)
def test_a_broken_run_is_one_clear_line_and_exit_code_2(
    run_dir: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None], message: str
) -> None:
    damage(run_dir / name)
    assert main([str(run_dir)]) == 2
    out = capsys.readouterr()
    assert out.out == "" and out.err.count("\n") == 1 and message in out.err
    assert not (run_dir / "report").exists()


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("stability.json", {"tasks": 3}),
        ("stability.json", {"num_players": None}),
        ("stability.json", {"tasks": {"vt": {"runs": [[[1.0, 2.0]], [[1.0]]], "mae": 0.1, "threshold": 0.2}}}),
        ("stability.json", {"tasks": {"vt": {"head_removal": [{"cut": "top"}]}}}),
        ("stability.json", {"tasks": {"vt": {"interval": [[0.0, 1.0]]}}}),
        ("stability.json", {"tasks": {"vt": {"mae": 0.1}}}),
        ("stability.json", {"tasks": {"vt": {"mae": {"median": 1.0, "min": 1.0, "max": 1.0}}}}),
        ("measurements.json", {"decode": {}}),
        ("measurements.json", {"decode": [{"runtime": "ragged"}]}),
        ("measurements.json", {"decode": [{"method": "cokv", "cache_bytes": float("nan")}]}),
        ("measurements.json", {"decode": [{"method": "cokv", "ratio_to": {"dynamic_cache": "fast"}}]}),
    ],
)
def test_a_file_of_another_shape_is_named(run_dir: Path, file: str, change: dict[str, Any]) -> None:
    path = run_dir / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ReportError, match=file) as caught:
        load_run(run_dir)
    assert "\n" not in str(caught.value)


def test_no_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no run folder at"):
        load_run(tmp_path / "runs" / "nothing")


def test_the_numbers_of_a_finished_run_are_those_of_its_metrics_file(run_dir: Path) -> None:
    run = load_run(run_dir)
    assert run.metrics == json.loads(json.dumps(aggregate(run.records)))


def test_reports_load_no_torch_and_no_other_room() -> None:
    code = (
        "import sys, reports, reports.plots, reports.__main__\n"
        "rooms = ('torch', 'transformers', 'cokv', 'suite', 'ruler', 'longbench')\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in rooms]\n"
        "assert not bad, bad[:5]"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_report_command_loads_no_torch(run_dir: Path) -> None:
    code = (
        "import sys\nfrom suite.cli.main import main\n"
        f"sys.argv = ['cokv', 'report', {str(run_dir)!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (run_dir / "report" / "report.md").is_file()
