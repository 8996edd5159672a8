"""The page of published profiles says what its record says, and the same record gives the same files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.errors import ReportError
from reports.heatmap import heads_figure, matrix_figure
from reports.profile_page import agreement_table, files_table, profile_tables, write_profiles


def made_up() -> dict[str, Any]:
    """SYNTHETIC: no model produced these numbers."""
    rng = np.random.default_rng(3)
    values = rng.normal(size=(2, 4, 2)).round(3)
    profiles = []
    for name, scores in zip(("one_task", "another"), values, strict=True):
        budgets = {"values": [[8, 24], [16, 16], [12, 20], [16, 14]], "total": 126, "expected_total": 128, "min": 8}
        profiles.append(
            {
                "name": name, "method": "CoKV", "num_layers": 4, "num_kv_heads": 2, "values": scores.tolist(),
                "min": scores.min(), "mean": scores.mean(), "max": scores.max(),
                "between_sizes": {"names": ["2", "4"], "spearman": [[1, 0.5], [0.5, 1]],
                                  "pearson": [[1, 0.6], [0.6, 1]]},
                "budgets": [{"preset": "official", "parameters": {}, "max": 24, "window_only": 1, **budgets}],
            }
        )  # fmt: skip
    file = {"file": "cc_one_task_2.npy", "players": 8, "size": 4, "stated_size": 2, "samples": 9, "content": "ab" * 32}
    return {
        "kind": "published profiles", "kv_budget": 16, "window_size": 8, "prompt_tokens": 64,
        "files": [{**file, "min": -0.5, "mean": 0.0, "max": 0.5}], "remarks": ["this one is a copy"],
        "profiles": profiles,
        "between_profiles": {"names": ["one_task", "another"], "spearman": [[1, None], [None, 1]],
                             "pearson": [[1, None], [None, 1]]},
    }  # fmt: skip


def test_tables_hold_the_numbers_of_the_record() -> None:
    tables = {table.name: table for table in profile_tables(made_up())}
    files = tables["profile_files"]
    assert [cell.text for cell in files.rows[0]][:4] == ["cc_one_task_2.npy", "8", "4", "9"]
    assert files.rows[0][2].detail == "(name says 2)" and files.notes == ("this one is a copy",)
    budgets = tables["profile_budgets"].rows[0]
    assert [cell.text for cell in budgets] == ["one_task", "CoKV official", "126", "2", "8", "15.75", "24", "1 of 8"]
    sizes = tables["profile_sizes_0"]
    assert sizes.rows[0][2].text == "0.50" and sizes.rows[0][2].detail == "(0.60)" and sizes.rows[0][1].text == "—"
    assert tables["profile_agreement"].rows[0][2].text == "—"


def test_nothing_odd_is_said_as_such() -> None:
    table = files_table({**made_up(), "remarks": []})
    assert table is not None and "No file is a copy" in table.notes[0]
    assert agreement_table("x", "x", {"names": ["alone"]}) is None


def test_the_page_shows_every_figure_and_is_the_same_twice(tmp_path: Path) -> None:
    record = made_up()
    page = write_profiles(record, tmp_path / "a")
    write_profiles(record, tmp_path / "b")
    stems = {path.stem for path in (tmp_path / "a").glob("*.svg")}
    assert stems == {"profile_scores", "profile_budgets", "profile_sizes_0", "profile_sizes_1", "profile_agreement"}
    text = page.read_text()
    for stem in stems:
        assert f"({stem}.png)" in text
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert json.loads((tmp_path / "a" / "profiles.json").read_text()) == record


def test_heat_maps_hold_the_values_and_leave_out_what_is_missing() -> None:
    values = np.arange(6.0).reshape(3, 2)
    figure = heads_figure({"a title that is long enough to be broken": values}, "score")
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(np.asarray(image.get_array()), values)
    assert "\n" in figure.axes[0].get_title()
    matrix = matrix_figure([[1.0, None], [-0.25, 0.5]], ["r", "s"], ["c", "d"], "title")
    assert sorted(text.get_text() for text in matrix.axes[0].texts) == ["0.50", "1.00", "\N{MINUS SIGN}0.25"]


@pytest.mark.parametrize("record", [{}, {"kind": "published profiles"}, {"kind": "published profiles", "profiles": []}])
def test_another_record_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ReportError, match="expected"):
        profile_tables(record)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ReportError, match="cannot be written"):
        write_profiles(made_up(), tmp_path / "file")
