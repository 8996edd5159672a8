"""Verdicts on the published results: what is committed beside them is what follows from them today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports.claims import judge_claims, load_evidence
from reports.claims.committed import changed_verdicts
from reports.claims.verdicts import CONTRADICTED, NOT_COMPARABLE, REPRODUCED

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
FOLDERS = sorted(path.parent.relative_to(RESULTS).as_posix() for path in RESULTS.glob("**/claims.json"))


def test_the_published_results_have_verdicts() -> None:
    assert {"embedded", "smollm2-135m", "smollm2-135m/cokv_checks", "qwen2.5-coder-0.5b"} <= set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_no_verdict_on_published_results_changes_silently(name: str) -> None:
    changed = changed_verdicts(RESULTS / name, judge_claims(load_evidence(RESULTS / name)))
    accept = f"if this is meant: python -m suite.cli claims benchmarks/results/{name} --out benchmarks/results/{name}"
    assert not changed, "\n".join([*changed, accept])


@pytest.mark.parametrize("name", ["embedded", "smollm2-135m"])
def test_at_least_five_claims_are_decided_on_either_kind_of_model(name: str) -> None:
    judged = judge_claims(load_evidence(RESULTS / name))
    assert sum(item.verdict in (REPRODUCED, CONTRADICTED) for item in judged) >= 5


@pytest.mark.parametrize("name", FOLDERS)
def test_every_verdict_says_what_it_rests_on(name: str) -> None:
    for item in judge_claims(load_evidence(RESULTS / name)):
        if item.verdict == NOT_COMPARABLE:
            assert item.why and item.claim.needed and item.value is None, item.claim.id
        else:
            assert item.where and item.basis and item.n and item.value is not None, item.claim.id
            assert item.exact or (item.confidence is not None and item.confidence > 0.95), item.claim.id


def test_a_changed_verdict_is_named_with_both_evidences(tmp_path: Path) -> None:
    judged = judge_claims(load_evidence(RESULTS / "embedded"))
    committed = json.loads((RESULTS / "embedded/claims.json").read_text(encoding="utf-8"))
    by_id = {claim["id"]: claim for claim in committed["claims"]}
    by_id["h2o-20"] |= {"verdict": REPRODUCED, "words": "as it was"}
    del by_id["kivi-2bit"]
    committed["claims"] = list(by_id.values())
    (tmp_path / "claims.json").write_text(json.dumps(committed), encoding="utf-8")
    changed = changed_verdicts(tmp_path, judged)
    assert len(changed) == 2
    h2o, kivi = changed
    assert h2o.startswith("h2o-20: reproduced before (as it was), contradicted now (") and "243 samples" in h2o
    assert kivi.startswith("kivi-2bit: no such claim before") and "contradicted now" in kivi
