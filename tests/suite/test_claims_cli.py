"""`cokv claims`: what is printed is what follows from the run, and every mistake is one line with exit code 2."""

import json
from pathlib import Path

import pytest
from command_line import call, refused

from reports.claims import claims, claims_sentences, judge_claims, load_evidence

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


def test_verdicts_are_printed_with_what_they_rest_on():
    folder = RESULTS / "smollm2-135m"
    result = call("claims", folder)
    assert result.exit_code == 0, result.output
    judged = judge_claims(load_evidence(folder))
    assert result.stdout.splitlines()[:3] == claims_sentences(judged)
    for item in judged:
        assert f"{item.claim.id}: {item.claim.short}" in result.stdout
        assert item.value is not None or f"needed: {item.claim.needed}" in result.stdout


def test_claims_are_listed_without_a_run():
    result = call("claims", "--list")
    assert result.exit_code == 0, result.output
    for claim in claims():
        assert f"{claim.id} ({claim.scope}): {claim.text}" in result.stdout and claim.source in result.stdout


def test_json_is_what_is_written(tmp_path):
    folder = RESULTS / "embedded"
    result = call("claims", folder, "--json", "--out", tmp_path / "new")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "new/claims.json").read_text(encoding="utf-8"))
    assert json.loads(result.stdout) == written
    assert [entry["id"] for entry in written["claims"]] == [claim.id for claim in claims()]


def test_the_newest_finished_run_is_judged_when_none_is_named(tmp_path):
    assert "no finished run under" in refused(call("claims", "--runs", tmp_path))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (None, "", "holds no results"),
        ("metrics.json", "{", "metrics.json: not JSON"),
        ("metrics.json", '{"memory": 3}', "metrics.json: holds no list 'memory'"),
        ("checks.json", '{"rows": []}', "checks.json: expected a list of at least one row"),
        ("stability.json", "[]", "stability.json: expected a JSON object"),
        ("answers.parquet", "PAR1", "answers.parquet"),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(tmp_path, name, text, message):
    if name is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert message in refused(call("claims", tmp_path))


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    assert "expected a run folder, or one of published results" in refused(call("claims", tmp_path / "absent"))
