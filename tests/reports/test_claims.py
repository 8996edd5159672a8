"""Claims judged in planted worlds, where a claim holds, fails, or cannot be told; and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import aggregate
from reports.claims import (
    Claim,
    Evidence,
    Judged,
    claims,
    claims_sentences,
    claims_table,
    judge_claims,
    load_evidence,
    read_claims,
    write_claims,
)
from reports.claims.estimates import difference_estimate, ratio_estimate, summary_estimate
from reports.claims.sample_scores import SampleScores
from reports.claims.show import claims_text
from reports.claims.verdicts import (
    CONTRADICTED,
    INCONCLUSIVE,
    NOT_COMPARABLE,
    REPRODUCED,
    VERDICTS,
    confidence_of_each,
    verdict_of,
)
from reports.errors import ReportError
from reports.golden import write_answers
from reports.latex import to_latex
from reports.reported import published_values
from reports.reported.names import models
from reports.table import to_markdown

ENGLISH = next(claim for claim in claims() if claim.id == "cokv-ratio-128").condition["tasks"]
SIDES = ("above", "at least", "below", "at most")


def records(
    methods: Mapping[str, Any],
    budgets: Sequence[int | str | None] = (64,),
    tasks: Sequence[str] = ("niah_single_1", "niah_single_2", "vt"),
    samples: int = 12,
    **more: Any,
) -> list[dict[str, Any]]:
    """methods: name -> function of (generator, full score) -> score, in percent. The full cache scores 100 or 50."""
    out = []
    rng = np.random.default_rng(0)
    for task in tasks:
        for sample in range(samples):
            full = 100.0 if sample % 4 else 50.0
            rows = [("full", None, full)]
            rows += [
                (name, budget, float(np.clip(score(rng, full), 0, 100)))
                for name, score in methods.items()
                for budget in budgets
            ]
            for method, budget, value in rows:
                tokens = more.get("prompt_tokens", 960)
                slots = more.get("kv_slots") if isinstance(budget, str) else budget
                kept = tokens if slots is None else min(slots, tokens)
                record = {
                    "benchmark": "ruler", "task": task, "sample_id": f"{task}/{sample}", "seed": 0, "method": method,
                    "preset": "normalized", "query_aware": True, "first_token": "prefill", "kv_budget": budget,
                    "kv_slots": slots, "score": value, "prompt_tokens": tokens, "kept_tokens": kept,
                    "kept_bytes": 4 * kept, "full_bytes": 4 * tokens, "slack_bytes": 0,
                }  # fmt: skip
                out.append({**record, **more, "kv_slots": slots})
    return out


def evidence_of(listed: Sequence[Mapping[str, Any]], model: str = "a-model", **spec: Any) -> Evidence:
    return Evidence(
        "run", {"about": {"model": model}, **spec}, aggregate(listed), SampleScores.of_records(listed), source="planted"
    )


def claim(expression: Mapping[str, Any], side: str = "above", bar: float = 0.0, **more: Any) -> Claim:
    """One entry, through the reader of TOML."""
    lines = {"id": "a", "short": "s", "text": "t", "paper": "p", "source": "arXiv", "scope": "general", "needed": "n"}
    lines |= {"side": side, **more}
    text = [f"{key} = {json.dumps(value)}" for key, value in lines.items() if not isinstance(value, Mapping)]
    text += [f"bar = {bar}", f"expression = {inline(expression)}"]
    text += [f"{key} = {inline(value)}" for key, value in lines.items() if isinstance(value, Mapping)]
    return read_claims("[[claim]]\n" + "\n".join(text), "test")[0]


def inline(table: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + "}"


def difference(method: str = "adakv", baseline: str = "snapkv") -> dict[str, Any]:
    return {"name": "difference", "method": method, "baseline": baseline, "budgets": [64, 128]}


def only(evidence: Evidence, *listed: Claim) -> Judged:
    return judge_claims(evidence, listed)[0]


# ------------------------------------------------------------------------------------------------- sides of a bar


@given(
    side=st.sampled_from([*SIDES, "within"]),
    bar=st.floats(-50, 50),
    tolerance=st.floats(0.5, 10),
    low=st.floats(-100, 100),
    width=st.floats(0, 100),
    inside=st.floats(0, 1),
)
def test_an_interval_inside_another_never_turns_a_verdict_round(
    side: str, bar: float, tolerance: float, low: float, width: float, inside: float
) -> None:
    wide = verdict_of(side, bar, tolerance, low, low + width)
    point = low + inside * width
    narrow = verdict_of(side, bar, tolerance, point, point)
    assert narrow != INCONCLUSIVE, "a point is on one side"
    assert wide in (INCONCLUSIVE, narrow)


@pytest.mark.parametrize(
    ("side", "low", "high", "verdict"),
    [
        ("above", 0.1, 9, REPRODUCED), ("above", 0, 9, INCONCLUSIVE), ("above", -9, 0, CONTRADICTED),
        ("at least", 0, 9, REPRODUCED), ("at least", -9, -0.1, CONTRADICTED), ("at least", -9, 0, INCONCLUSIVE),
        ("below", -9, -0.1, REPRODUCED), ("below", -9, 0, INCONCLUSIVE), ("below", 0, 9, CONTRADICTED),
        ("at most", -9, 0, REPRODUCED), ("at most", 0.1, 9, CONTRADICTED), ("at most", 0, 9, INCONCLUSIVE),
    ],
)  # fmt: skip
def test_the_whole_interval_must_lie_on_one_side(side: str, low: float, high: float, verdict: str) -> None:
    assert verdict_of(side, 0.0, 0.0, low, high) == verdict


def test_a_tolerance_is_in_favour_of_the_claim_and_within_is_two_sided() -> None:
    assert verdict_of("at least", 97.29, 1.0, 96.3, 99.0) == REPRODUCED
    assert verdict_of("below", 30.0, 1.0, 10.0, 30.5) == REPRODUCED
    assert verdict_of("within", 90.0, 1.5, 88.6, 91.4) == REPRODUCED
    assert verdict_of("within", 90.0, 1.5, 88.0, 91.4) == INCONCLUSIVE
    assert verdict_of("within", 90.0, 1.5, 92.0, 99.0) == verdict_of("within", 90.0, 1.5, 80.0, 88.0) == CONTRADICTED


# ------------------------------------------------------------------------------------------------- planted worlds


@pytest.mark.parametrize(
    ("gain", "verdict"),
    [
        (lambda rng, full: full - 20, REPRODUCED),
        (lambda rng, full: full - 60, CONTRADICTED),
        (lambda rng, full: full - 40 + rng.choice([-10, 10]), INCONCLUSIVE),
    ],
)
def test_a_difference_is_told_where_it_was_planted_and_not_elsewhere(gain: Any, verdict: str) -> None:
    world = evidence_of(records({"snapkv": lambda rng, full: full - 40, "adakv": gain}))
    judged = only(world, claim(difference()))
    assert judged.verdict == verdict
    assert judged.low is not None and judged.value is not None and judged.high is not None
    assert judged.low <= judged.value <= judged.high
    assert judged.where == "3 RULER tasks (generated here), 64 slots (6.7 % of the prompt)" and judged.n == 36


@pytest.mark.parametrize(
    ("kept", "verdict"), [(1.0, REPRODUCED), (0.97, REPRODUCED), (0.5, CONTRADICTED), (0.0, CONTRADICTED)]
)
def test_a_ratio_to_full_is_told_where_it_was_planted(kept: float, verdict: str) -> None:
    world = evidence_of(records({"lukv": lambda rng, full: kept * full}, samples=40))
    expression = {"name": "ratio_to_full", "method": "lukv", "budgets": [64]}
    judged = only(world, claim(expression, "at least", 92.0))
    assert judged.verdict == verdict and judged.value == pytest.approx(100 * kept)


def test_equal_scores_of_few_samples_decide_nothing() -> None:
    """All alike: no spread, and yet no certainty; a verdict never follows from the value alone."""
    world = evidence_of(records({"lukv": lambda rng, full: full}, samples=2))
    expression = {"name": "ratio_to_full", "method": "lukv", "budgets": [64]}
    assert only(world, claim(expression, "at least", 95.0)).verdict == INCONCLUSIVE
    single = evidence_of(records({"lukv": lambda rng, full: full}, samples=1))
    judged = only(single, claim(expression, "at least", 95.0))
    assert judged.verdict == NOT_COMPARABLE and "two samples" in judged.why


@pytest.mark.parametrize(
    ("budget", "kept", "verdict"),
    [
        (96, 1.0, REPRODUCED),  # with less than the share
        (96, 0.5, INCONCLUSIVE),  # the rest of the share might have saved it
        (480, 0.5, CONTRADICTED),  # with more than the share
        (480, 1.0, INCONCLUSIVE),  # more than the share was given
        (192, 1.0, REPRODUCED),
        (192, 0.5, CONTRADICTED),
    ],
)
def test_a_share_is_judged_at_other_budgets_only_where_that_follows(budget: int, kept: float, verdict: str) -> None:
    world = evidence_of(records({"lukv": lambda rng, full: kept * full}, [budget], samples=40))
    judged = only(world, claim({"name": "ratio_to_full", "method": "lukv", "share": 0.2}, "at least", 90.0))
    assert judged.verdict == verdict


def test_a_share_of_the_prompt_is_a_budget_too() -> None:
    listed = records({"lukv": lambda rng, full: full}, ["20%"], samples=40, kv_slots=192)
    judged = only(
        evidence_of(listed), claim({"name": "ratio_to_full", "method": "lukv", "share": 0.2}, "at least", 90.0)
    )
    assert judged.verdict == REPRODUCED and judged.where.endswith("20 % of the prompt")


@pytest.mark.parametrize(("query_aware", "kept", "verdict"), [
    (False, 1.0, REPRODUCED), (False, 0.5, CONTRADICTED), (True, 1.0, INCONCLUSIVE), (True, 0.5, CONTRADICTED),
])  # fmt: skip
def test_a_question_that_was_seen_can_only_contradict(query_aware: bool, kept: float, verdict: str) -> None:
    listed = records({"lukv": lambda rng, full: kept * full}, [192], samples=40, query_aware=query_aware)
    judged = shipped("lukv-80", evidence_of(listed))
    assert judged.verdict == verdict and ("question was seen" in judged.why) == (verdict == INCONCLUSIVE)


def test_a_question_asked_under_several_seeds_counts_once() -> None:
    once = records({"snapkv": lambda rng, full: full - 40, "adakv": lambda rng, full: full - rng.integers(0, 60)})
    thrice = [{**record, "seed": seed} for record in once for seed in range(3)]
    first, second = (only(evidence_of(listed), claim(difference())) for listed in (once, thrice))
    assert (first.low, first.high, first.n) == (second.low, second.high, second.n)


def test_tasks_that_one_side_lacks_are_left_out_and_named() -> None:
    listed = records({"snapkv": lambda rng, full: full - 40, "adakv": lambda rng, full: full - 20})
    for record in listed:
        if record["task"] == "vt" and record["method"] == "adakv":
            record |= {"score": None, "infeasible": "too small"}
    judged = only(evidence_of(listed), claim(difference()))
    assert judged.verdict == REPRODUCED and judged.where.endswith("without vt") and judged.n == 24


def test_a_budget_that_holds_the_prompt_compares_nothing() -> None:
    listed = records({"cokv": lambda rng, full: full}, [1024])
    judged = only(evidence_of(listed), claim({**difference("cokv", "full"), "budgets": [1024]}))
    assert judged.verdict == NOT_COMPARABLE and "holds the whole prompt" in judged.why


# ------------------------------------------------------------------------------------------------- the intervals


def test_the_interval_of_a_ratio_covers_it() -> None:
    """Share of planted worlds whose 95 % interval holds the true ratio, at few samples of scores that are 0 or 100."""
    rng = np.random.default_rng(1)
    for tasks, samples in ((2, 6), (6, 7), (1, 30)):
        covered = []
        for _ in range(300):
            full = [100.0 * (rng.random(samples) < 0.85) for _ in range(tasks)]
            top = [scores * (rng.random(samples) < 0.8) for scores in full]
            if not any(map(np.any, full)):
                continue
            low, high = ratio_estimate(top, full, "samples", "").interval(0.95)
            covered.append(low <= 80.0 <= high)
        assert np.mean(covered) >= 0.93, (tasks, samples)


def test_more_confidence_is_a_wider_interval_around_the_same_value() -> None:
    rng = np.random.default_rng(2)
    top, full = [rng.uniform(0, 80, 9) for _ in range(3)], [rng.uniform(60, 100, 9) for _ in range(3)]
    estimates = [
        ratio_estimate(top, full, "", ""),
        difference_estimate([a - b for a, b in zip(top, full, strict=True)], "", ""),
    ]
    for estimate in estimates:
        (low, high), (lower, higher) = estimate.interval(0.95), estimate.interval(0.999)
        assert lower < low < estimate.value < high < higher


def test_a_full_cache_that_may_score_nothing_leaves_a_ratio_open() -> None:
    _, high = ratio_estimate([np.array([0.0, 1.0])], [np.array([0.0, 100.0])], "", "").interval(0.99)
    assert high == np.inf


# ------------------------------------------------------------------------------------------------- several at once


def test_every_claim_more_raises_the_confidence_of_each() -> None:
    listed = records(
        {"snapkv": lambda rng, full: full - 40, "adakv": lambda rng, full: full - 40 + rng.choice([-1, 39])}
    )
    one, more = claim(difference()), [claim(difference(), id=f"c{number}") for number in range(30)]
    alone, among = only(evidence_of(listed), one), only(evidence_of(listed), one, *more)
    assert alone.confidence == pytest.approx(0.95) and among.confidence == pytest.approx(1 - 0.05 / 31, abs=1e-6)
    assert among.low is not None and alone.low is not None and among.low < alone.low
    elsewhere = [claim({**difference(), "budgets": [2048]}, id=f"d{number}") for number in range(30)]
    assert only(evidence_of(listed), one, *elsewhere).confidence == alone.confidence, "what is not judged costs nothing"


def test_where_nothing_differs_few_worlds_show_any_verdict() -> None:
    """Twelve claims at once, none of them true or false: a verdict on any in no more than about 5 % of the worlds."""
    rng = np.random.default_rng(3)
    confidence = confidence_of_each(12)
    wrong = [
        any(
            verdict_of("above", 0.0, 0.0, *difference_estimate(gaps, "", "").interval(confidence)) != INCONCLUSIVE
            for gaps in ([rng.choice([-100.0, 0.0, 100.0], 7) for _ in range(4)] for _ in range(12))
        )
        for _ in range(300)
    ]
    assert np.mean(wrong) <= 0.06


# ------------------------------------------------------------------------------------------------- where a claim speaks


def longbench(kept: float, model: str = "meta-llama/Meta-Llama-3-8B-Instruct", **more: Any) -> Evidence:
    tasks = more.pop("tasks", ENGLISH)
    methods = {"cokv": lambda rng, full: kept * full}
    more = {"benchmark": "longbench", "prompt_tokens": 7000, **more}
    spec = {"experiment": {"longbench": {"protocol": more.pop("protocol", "cokv")}}, "device": "cuda:0"}
    return evidence_of(records(methods, [64, 128], tasks, 20, **more), model, **spec)


def shipped(name: str, evidence: Evidence) -> Judged:
    return {item.claim.id: item for item in judge_claims(evidence)}[name]


@pytest.mark.parametrize(("kept", "verdict"), [(0.98, REPRODUCED), (0.9, CONTRADICTED)])
def test_a_claim_of_a_setting_is_judged_in_it(kept: float, verdict: str) -> None:
    judged = shipped("cokv-ratio-128", longbench(kept))
    assert judged.verdict == verdict and judged.where.startswith("16 LongBench data sets, 128 slots")


def test_the_two_sources_of_one_number_are_told_apart() -> None:
    assert [shipped(f"cokv-ratio-64-{name}", longbench(0.928)).verdict for name in ("table", "prose")] == [
        REPRODUCED,
        CONTRADICTED,
    ]
    assert [shipped(f"cokv-ratio-64-{name}", longbench(0.897)).verdict for name in ("table", "prose")] == [
        CONTRADICTED,
        REPRODUCED,
    ]


@pytest.mark.parametrize(
    ("evidence", "why"),
    [
        (longbench(0.98, "SmolLM2-135M"), "the model is SmolLM2-135M, not Meta-Llama-3-8B-Instruct"),
        (longbench(0.98, tasks=ENGLISH[1:]), "the tasks lack narrativeqa"),
        (longbench(0.98, protocol="official"), "LongBench's protocol is official, not cokv"),
        (longbench(0.98, benchmark="longbench_mini"), "16 generated stand-ins for LongBench, not of longbench"),
        (longbench(0.98, query_aware=False), "the question is not seen when tokens are chosen"),
    ],
)
def test_outside_its_setting_a_claim_says_what_is_in_the_way(evidence: Evidence, why: str) -> None:
    judged = shipped("cokv-ratio-128", evidence)
    assert judged.verdict == NOT_COMPARABLE and why in judged.why and judged.claim.needed


def test_every_claim_is_answered_once_and_the_sentences_count_them_all() -> None:
    judged = judge_claims(longbench(0.98))
    assert [item.claim.id for item in judged] == [entry.id for entry in claims()]
    assert len(claims_sentences(judged)) == 3
    assert "CoKV keeps 97.29 %" in claims_sentences(judged)[0]
    table = claims_table(judged)
    assert len(table.rows) == len(judged)
    assert [VERDICTS.index(row[1].text) for row in table.rows] == sorted(VERDICTS.index(i.verdict) for i in judged)
    behind = [row[-1].text for row in table.rows]
    for item in judged:
        if item.verdict == NOT_COMPARABLE:
            assert f"{item.why}. Needed: {item.claim.needed}" in behind
            assert f"needed: {item.claim.needed}" in claims_text(judged)


def test_verdicts_are_written_as_json_and_shown_without_control_characters(tmp_path: Path) -> None:
    judged = judge_claims(longbench(0.98, "evil\x1b[31m\u202e<script>\\input{x}"))
    written = json.loads(write_claims(judged, tmp_path).read_text(encoding="utf-8"))
    assert [entry["id"] for entry in written["claims"]] == [item.claim.id for item in judged]
    assert all(entry["words"] and entry["verdict"] in VERDICTS for entry in written["claims"])
    text = claims_text(judged)
    assert "\x1b" not in text and "\u202e" not in text and "<U+001B>" in text
    assert "<script>" not in to_markdown(claims_table(judged)).replace("\\<script>", "")
    assert "\\input" not in to_latex(claims_table(judged))


# ------------------------------------------------------------------------------------------------- what was measured


def measured(prompt_tokens: int = 32768, repeats: int = 20, cuda: int | None = 30) -> Evidence:
    peak = {"cuda": 100} if cuda is not None else {"rss": 1}
    base = {"batch": 8, "prompt_tokens": prompt_tokens, "kv_budget": None, "peak_bytes": peak}
    ratio = {"dynamic_cache": {"median": 0.4, "min": 0.38, "max": 0.45}}
    rows = [
        {**base, "method": "full", "runtime": "dynamic_cache"},
        {**base, "method": "cokv", "runtime": "ragged", "kv_budget": 128, "ratio_to": ratio}
        | ({"peak_bytes": {"cuda": cuda}} if cuda is not None else {}),
    ]
    spec = {
        "about": {"model": "Mistral-7B-Instruct-v0.2"},
        "device": "cuda",
        "experiment": {"measure": {"repeats": repeats}},
    }
    return Evidence("run", spec, measurements={"decode": rows})


def test_memory_and_latency_are_judged_at_the_papers_setting_only() -> None:
    assert shipped("cokv-peak-memory", measured()).verdict == REPRODUCED
    assert shipped("cokv-peak-memory", measured(cuda=50)).verdict == CONTRADICTED
    assert shipped("cokv-latency", measured()).verdict == REPRODUCED
    assert "prompts of 512 tokens" in shipped("cokv-latency", measured(512)).why
    assert "no peak of a GPU's memory" in shipped("cokv-peak-memory", measured(cuda=None)).why


def test_a_median_of_few_repeats_has_no_interval_and_no_verdict() -> None:
    judged = shipped("cokv-latency", measured(repeats=3))
    assert judged.verdict == INCONCLUSIVE and judged.low is None and "3 repeats" in judged.why


def test_bytes_are_counted_and_have_no_interval() -> None:
    listed = records({"kivi2": lambda rng, full: full}, [None])
    for record in listed:
        record["kept_bytes"] = record["full_bytes"] // (8 if record["method"] == "kivi2" else 1)
    judged = shipped("quantization-above-1", evidence_of(listed))
    assert judged.verdict == REPRODUCED and judged.exact and judged.value == pytest.approx(12.5)
    short, long = (
        evidence_of(records({"snapkv": lambda rng, full: full}, prompt_tokens=tokens)) for tokens in (960, 9600)
    )
    assert "the smallest budget, 64, is 6.7 % of these prompts" in shipped("eviction-below-1", short).why
    assert shipped("eviction-below-1", long).verdict == REPRODUCED


@pytest.mark.parametrize(("noise", "verdict"), [(0.2, REPRODUCED), (4.0, CONTRADICTED), (1.25, INCONCLUSIVE)])
def test_two_runs_of_head_scores_are_held_against_one_over_n(noise: float, verdict: str) -> None:
    """Differences are normal, so that their mean absolute value is 0.8 times `noise`, in units of 1/n."""
    rng = np.random.default_rng(4)
    first = rng.normal(size=(8, 8))
    second = first + rng.normal(size=(8, 8)) * noise / 64
    entry = {"runs": [first.tolist(), second.tolist()], "threshold": 1 / 64, "mae": 0.0}
    stability = {"num_players": 64, "tasks": {"vt": entry}, "coalitions_per_size": 250}
    judged = shipped("cokv-mae", Evidence("run", {}, stability=stability))
    assert judged.verdict == verdict and judged.n == 64
    fewer = shipped("cokv-mae", Evidence("run", {}, stability={**stability, "coalitions_per_size": 24}))
    assert fewer.verdict == (REPRODUCED if verdict == REPRODUCED else INCONCLUSIVE)
    assert (fewer.why == "from 24 coalitions per size, not 250") == (verdict != REPRODUCED)


@pytest.mark.parametrize(("top", "verdict"), [(5.0, REPRODUCED), (98.0, CONTRADICTED), (70.0, INCONCLUSIVE)])
def test_masked_heads_are_compared_by_what_is_left(top: float, verdict: str) -> None:
    def row(cut: str, score: float) -> dict[str, Any]:
        return {
            "cut": cut,
            "heads": 4,
            "score": score,
            "low": score - 2,
            "high": min(score + 2, 100),
            "full_score": 100,
        }

    tasks = {f"task{i}": {"head_removal": [row("top", top), row("bottom", 70.0)]} for i in range(12)}
    spec = {"experiment": {"game": {"removal_samples": 9}}}
    judged = shipped("masking-top-bottom", Evidence("run", spec, stability={"num_players": 16, "tasks": tasks}))
    assert judged.verdict == verdict and judged.n == 108
    unknown = shipped("masking-top-bottom", Evidence("run", {}, stability={"num_players": 16, "tasks": tasks}))
    assert unknown.verdict == NOT_COMPARABLE and "not on record" in unknown.why


def test_an_interval_for_few_samples_is_widened_less_than_a_bootstraps() -> None:
    row = {"score": 10.0, "low": 2.0, "high": 18.0}
    few, bootstrap = (summary_estimate(row, 12, kind, "") for kind in (False, True))
    assert few.interval(0.95) == pytest.approx((2.0, 18.0))
    assert few.interval(0.999)[1] < bootstrap.interval(0.999)[1] and bootstrap.interval(0.95)[1] > 18.0
    alike = {"score": 0.0, "low": 0.0, "high": 0.0}
    assert summary_estimate(alike, 12, True, "").interval(0.95)[1] > 10.0


# ------------------------------------------------------------------------------------------------- files


def test_published_results_give_the_verdicts_of_their_run(tmp_path: Path) -> None:
    listed = records({"snapkv": lambda rng, full: full - 40, "adakv": lambda rng, full: full - rng.integers(0, 60)})
    write_answers(listed, tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps(aggregate(listed)), encoding="utf-8")
    (tmp_path / "spec.json").write_text('{"about": {"model": "a-model"}}', encoding="utf-8")
    ours, theirs = judge_claims(load_evidence(tmp_path)), judge_claims(evidence_of(listed))
    assert [(i.verdict, i.value, i.low, i.high) for i in ours] == [(i.verdict, i.value, i.low, i.high) for i in theirs]
    (tmp_path / "metrics.json").write_text(json.dumps(aggregate(listed[:-1])), encoding="utf-8")
    with pytest.raises(ReportError, match=r"answers.parquet holds \d+ records, metrics.json is of \d+; store both"):
        load_evidence(tmp_path)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"holds no results: expected predictions\.jsonl"):
        load_evidence(tmp_path)
    with pytest.raises(ReportError, match="no folder at"):
        load_evidence(tmp_path / "absent")


# ------------------------------------------------------------------------------------------------- claims.toml


def test_bars_come_from_the_published_values() -> None:
    by_id = {entry.id: entry for entry in claims()}
    assert by_id["cokv-ratio-128"].bar == pytest.approx(97.29)
    assert by_id["cokv-ratio-64-table"].bar == pytest.approx(100 * 38.73 / 41.73, abs=0.02)
    assert by_id["adakv-above-snapkv"].published == pytest.approx(36.52 - 34.94, abs=0.02)
    assert by_id["cokv-above-full-1024"].published == pytest.approx(42.86 - 41.73, abs=0.02)
    assert by_id["kvzip-ruler-20"].bar == pytest.approx(100 * 94.9 / 95.7)
    assert {value.paper for value in published_values()} >= {"CoKV", "LU-KV", "kvpress"}


def test_experiments_that_would_be_needed_are_there() -> None:
    shipped = {path.stem for path in (Path(__file__).parents[2] / "experiments").glob("*.toml")}
    named = [name for entry in claims() for name in re.findall(r"--experiment ([\w-]+)", entry.needed)]
    assert len(named) > 8 and set(named) <= shipped


def test_models_are_named_as_the_published_ones() -> None:
    named = {model for entry in claims() for model in entry.condition.get("models", ())}
    assert named <= set(models())


def test_a_claim_of_a_setting_names_its_models_and_a_general_one_does_not() -> None:
    for entry in claims():
        assert ("models" in entry.condition) == (entry.scope == "setting"), entry.id
        assert entry.text.endswith(".") and ("arXiv:" in entry.source or "kvpress" in entry.source), entry.id


GOOD = {
    "id": '"a"', "short": '"s"', "text": '"t"', "paper": '"p"', "source": '"x"', "scope": '"general"',
    "side": '"above"', "bar": "0", "needed": '"n"', "expression": '{ name = "mae_over_bar", coalitions_per_size = 9 }',
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expression": '{ name = "eval", code = "1" }'}, "unknown expression 'eval'; expected one of difference"),
        ({"expression": "3"}, "unknown expression None"),
        ({"expression": '{ name = ["mae_over_bar"] }'}, "unknown expression"),
        ({"expression": '{ name = "mae_over_bar", k = 1 }'}, "unknown argument 'k'"),
        ({"expression": '{ name = "mae_over_bar", coalitions_per_size = true }'}, "must be int, got True"),
        ({"expression": '{ name = "kept_share" }'}, "the expression lacks tokens"),
        ({"expression": '{ name = "kept_share", tokens = 4 }'}, "argument tokens must be str, got 4"),
        ({"expression": '{ name = "ratio_to_full", method = "h2o" }'}, "needs exactly one of budgets, share"),
        ({"needed": None}, "lacks needed"),
        ({"text": '""'}, "text must be text"),
        ({"side": '"near"'}, "side 'near', expected one of above, at least"),
        ({"scope": '"any"'}, "scope 'any', expected general or setting"),
        ({"bar": '"high"'}, "bar must be a number"),
        ({"bar": "true"}, "bar must be a number"),
        ({"bar": '"published"'}, "needs a table `published`"),
        ({"tolerance": "-1"}, "tolerance must be at least 0"),
        ({"side": '"within"'}, "above 0 for side within"),
        ({"colour": '"red"'}, "unknown colour"),
        ({"condition": '{ moon = "full" }'}, "unknown condition 'moon'"),
        ({"condition": "{ models = [] }"}, "condition models must be list"),
        ({"condition": "{ length = true }"}, "condition length must be int"),
        ({"published": '{ paper = "CoKV" }'}, "published needs paper, method and budget"),
        ({"published": '{ paper = "CoKV", method = "X", budget = "64" }'}, "no published value of 'X' at '64'"),
        ({"id": None, "bad": "="}, "not TOML"),
    ],
)
def test_a_bad_entry_is_refused_in_one_line(change: dict[str, str | None], message: str) -> None:
    lines = {**GOOD, **change}
    text = "[[claim]]\n" + "\n".join(f"{key} = {value}" for key, value in lines.items() if value is not None)
    with pytest.raises(ReportError) as error:
        read_claims(text, "claims.toml")
    assert message in str(error.value) and "\n" not in str(error.value) and str(error.value).startswith("claims.toml")


def test_the_good_entry_is_read_and_an_id_stands_once() -> None:
    text = "[[claim]]\n" + "\n".join(f"{key} = {value}" for key, value in GOOD.items()) + "\n"
    assert read_claims(text, "x")[0].unit == "x 1/n"
    with pytest.raises(ReportError, match="id 'a' stands twice"):
        read_claims(text + text, "x")
    with pytest.raises(ReportError, match="expected a list of"):
        read_claims("", "x")
