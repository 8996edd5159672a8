"""Check 10: CoKV, LU-KV, HeadKV-R2 and AdaKV against uniform budgets (SnapKV), at each budget of the run.

From the run's own records, so nothing is computed; paired over the samples that both methods answered; one asked under
several seeds counts once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cokv.methods.method import NORMALIZED
from cokv.types import FloatArray
from reports.kv_budget import budget_order, budget_text
from reports.questions import by_question, question_scores
from suite.checks.context import Context, Row, not_run
from suite.checks.pooled import difference, mean_of, total
from suite.checks.rules import judged

NAME = "methods"
UNIFORM = "snapkv"
COMPARED = {"cokv": "CoKV", "lukv": "LU-KV", "headkv_r2": "HeadKV-R2", "adakv": "AdaKV"}


def rows(context: Context) -> list[Row]:
    by_cell: dict[tuple[str, Any], dict[tuple[str, int, str], Mapping[str, Any]]] = {}
    for record in context.records:
        if record["preset"] == NORMALIZED and record["task"] in context.tasks:
            sample = (record["task"], record["seed"], record["sample_id"])
            by_cell.setdefault((record["method"], record["kv_budget"]), {})[sample] = record
    budgets = sorted({budget for method, budget in by_cell if method == UNIFORM}, key=budget_order)
    if not budgets:
        return [not_run(NAME, "Better than uniform budgets?", f"{UNIFORM} is not a method of this run")]
    out = []
    for method, title in COMPARED.items():
        if not any(name == method for name, _ in by_cell):
            what = f"{title} better than uniform budgets?"
            out.append(not_run(NAME, what, f"{method} is not a method of this run, with its paper's parameters"))
            continue
        for budget in budgets:
            what = f"{title} better than uniform at {budget_text(budget)}?"
            out.append(_row(what, by_cell.get((method, budget), {}), by_cell[UNIFORM, budget]))
    return out


def _row(what: str, arm: Mapping[Any, Mapping[str, Any]], base: Mapping[Any, Mapping[str, Any]]) -> Row:
    paired = [s for s in base if s in arm and arm[s]["score"] is not None and base[s]["score"] is not None]
    if not paired:
        why = next((r.get("infeasible") or r.get("unsupported") for r in arm.values() if r["score"] is None), None)
        return not_run(NAME, what, why or "no sample was answered by both")

    def scores(records: Mapping[Any, Mapping[str, Any]]) -> dict[str, FloatArray]:
        tasks = dict.fromkeys(task for task, *_ in paired)
        return {task: question_scores(by_question(records[s] for s in paired if s[0] == task)) for task in tasks}

    of_arm, of_base = scores(arm), scores(base)
    gap = difference(of_arm, of_base)
    both = {"arm": mean_of(of_arm), "base": mean_of(of_base)}
    return {"check": NAME, "what": what, "of": "samples", **gap, **judged("gain", gap, total(of_arm)), **both}
