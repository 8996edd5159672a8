"""What a table says of methods beside scores: ablations of ours, parameters that differ from papers, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reports import aggregate
from reports.errors import ReportError
from reports.labels import Labels
from reports.overview import overview_table
from reports.plots import MOST, shown
from reports.records import check_record, digest, variant_of
from reports.rundir import load_run
from reports.score_tables import score_tables
from reports.tables import fact_notes
from reports.variants import MethodFacts

TITLES = {"snapkv": "SnapKV", "duoattention": "DuoAttention", "headkv_r": "HeadKV-R", "fastgen": "FastGen"}
DUO = "num_sinks=4, local=28"
SPEC = {
    "about": {
        "variants": [
            {"method": "snapkv", "preset": "normalized", "ours": False, "changed": [["window_size", 8, 32]]},
            {"method": "snapkv", "preset": "unpooled", "ours": True, "changed": [["window_size", 8, 32]]},
            {
                "method": "duoattention",
                "preset": DUO,
                "ours": False,
                "changed": [["num_sinks", 4, 64], ["local", 28, 256]],
            },
            {"method": "tova", "preset": "normalized", "ours": False, "changed": [["keep_last", True, False]]},
        ]
    }
}
REFUSED = (
    "headkv_r: no valid profile: one head has nearly all of the score, as if 1.00 heads shared it, expected at least 2"
)


@pytest.fixture
def metrics(record: Any) -> dict[str, Any]:
    records = []
    for task in ("qa_1", "vt"):
        for sample in range(2):
            own = {"sample": sample, "task": task}
            records += [
                record("snapkv", 64, 50.0, **own),
                record("snapkv", 64, 40.0, preset="unpooled", **own),
                record(
                    "duoattention", 64, 60.0, preset="num_sinks=4, local=28", facts={"whole_heads": 2 + sample}, **own
                ),
                record("headkv_r", 64, None, infeasible=None, unsupported=REFUSED, **own),
                record("fastgen", 64, None, infeasible="the total pays for a threshold of 0.1", **own),
            ]
    return aggregate(records)


@pytest.fixture
def labels(metrics: dict[str, Any]) -> Labels:
    return Labels(metrics["cells"], TITLES, MethodFacts.of_spec(SPEC))


def test_rows_are_named_by_variant_and_ours_are_marked(labels: Labels) -> None:
    names = [labels.name(variant) for variant in labels.variants]
    assert names == [
        "FastGen", "SnapKV", "SnapKV (unpooled, ours)", "HeadKV-R", "DuoAttention (num_sinks=4, local=28)"
    ]  # fmt: skip


def test_what_differs_from_the_papers_stands_below(labels: Labels) -> None:
    assert labels.notes() == (
        "Not at the paper's value: window_size 8 where the paper has 32 (SnapKV, SnapKV (unpooled, ours)); "
        "num_sinks 4 where the paper has 64 (DuoAttention (num_sinks=4, local=28)); "
        "local 28 where the paper has 256 (DuoAttention (num_sinks=4, local=28)).",
        "Rows marked ours are ablations and combinations of this project's own, not of a paper.",
    ), "nothing of methods that the table does not show"
    assert Labels([], TITLES).notes() == () and MethodFacts.of_spec({}).entries == ()


def test_a_refused_profile_and_a_missed_budget_say_which_they_are(metrics: dict[str, Any], labels: Labels) -> None:
    (table,) = score_tables(metrics, labels)
    cells = {row[0].text: row[1].text for row in table.rows}
    notes = {note.split(" ", 1)[0]: note for note in table.notes if note.startswith("(")}
    assert notes[cells["HeadKV-R"]] == f"{cells['HeadKV-R']} {REFUSED}."
    assert notes[cells["FastGen"]].endswith("Infeasible: the total pays for a threshold of 0.1.")
    overview = overview_table(metrics, labels)
    assert overview is not None
    averages = {row[0].text: row[1].text for row in overview.rows}
    assert averages["HeadKV-R"] == "no valid profile" and averages["FastGen"] == "infeasible"


def test_what_the_budget_decided_is_in_the_metrics_and_below_the_table(metrics: dict[str, Any], labels: Labels) -> None:
    note = "DuoAttention (num_sinks=4, local=28), heads kept whole, mean where feasible: 2.50 at 64."
    assert fact_notes(metrics, labels, "ruler") == [note]
    assert fact_notes(metrics, labels) == [note.replace("2.50", "ruler 2.50")]
    (table,) = score_tables(metrics, labels)
    overview = overview_table(metrics, labels, "ruler")
    assert note in table.notes and overview is not None and note in overview.notes
    (cell,) = [c for c in metrics["cells"] if c["task"] == "vt" and variant_of(c).method == "duoattention"]
    assert cell["facts"] == {"whole_heads": 2.5}


def test_facts_are_numbers_and_part_of_the_digest(record: Any) -> None:
    plain, one, two = record(), record(facts={"threshold": 0.5}), record(facts={"threshold": 0.6})
    assert len({digest([plain]), digest([one]), digest([two])}) == 3
    for bad in ({"threshold": "0.5"}, {"threshold": None}, [0.5]):
        with pytest.raises(ReportError, match="field 'facts' must be an object of numbers"):
            check_record(record(facts=bad), "record 1")


def test_the_embedded_model_ranks_nothing(metrics: dict[str, Any]) -> None:
    labels = Labels(metrics["cells"], TITLES, MethodFacts.of_spec(SPEC), ranks=False)
    (table,), overview = score_tables(metrics, labels), overview_table(metrics, labels)
    assert overview is not None
    assert not any(cell.bold for shown in (table, overview) for row in shown.rows for cell in row)
    assert not any(cell.underline for shown in (table, overview) for row in shown.rows for cell in row)
    assert "no ranking follows from these scores" in labels.notes()[-1]
    ranking = overview_table(metrics, Labels(metrics["cells"], TITLES, MethodFacts.of_spec(SPEC)))
    assert ranking is not None and any(cell.bold for row in ranking.rows for cell in row)
    assert [row[0].text for row in ranking.rows] == [row[0].text for row in overview.rows], "never by score"


@pytest.mark.parametrize(("model", "ranks"), [("embedded", False), ("org/model", True)])
def test_a_run_knows_whether_its_model_ranks(run_dir: Any, model: str, ranks: bool) -> None:
    spec = json.loads((run_dir / "spec.json").read_text())
    spec["about"] = {**spec.get("about", {}), "model": model}
    (run_dir / "spec.json").write_text(json.dumps(spec))
    assert load_run(run_dir).labels.ranks is ranks


def test_a_run_that_ranks_nothing_still_draws_its_best_methods_not_those_listed_first(record: Any) -> None:
    names = [f"method_{number:02d}" for number in range(12)]  # listed worst first
    records = [record(name, 64, 5.0 * number, sample) for number, name in enumerate(names) for sample in range(2)]
    metrics = aggregate(records)
    drawn = [
        shown(metrics, Labels(metrics["cells"], {name: name for name in names}, ranks=ranks)) for ranks in (False, True)
    ]
    assert drawn[0] == drawn[1], "what is drawn is no ranking, and the first of a list would be one"
    assert {variant.method for variant in drawn[0]} == set(names[-MOST:])
