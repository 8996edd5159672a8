"""Checks 4, 5 and 9: CoKV at one budget with another alpha, window, or source of the first answer token."""

from __future__ import annotations

from typing import Any

from cokv.methods.allocators.cokv import CoKV
from suite.checks.answers import Answered, Arm
from suite.checks.compared import against
from suite.checks.context import Context, Row, not_run
from suite.checks.rankings import CACHES

ALPHA, WINDOW, FIRST_TOKEN = "alpha", "window", "first_token"
DEFAULT_WINDOW = 8  # CoKV's and HeadKV's released codes


def own_arm(context: Context, task: str, **params: Any) -> Arm:
    """CoKV with the task's own profile, at the checks' budget; the experiment's parameters of CoKV, then these."""
    methods = context.experiment.methods
    own_params = next((dict(m.params) for m in methods if (m.name, m.preset) == ("cokv", "normalized")), {})
    first_token = context.experiment.protocol.first_token
    return Arm("cokv", {**own_params, **params}, context.spec.kv_budget, context.scores[task], first_token)


def alphas(context: Context) -> list[int]:
    """Heads that keep only the window, without the default; 1 is the fewest, c_(1) being the lowest score."""
    counts = [max(1, round(share * context.num_players)) for share in context.spec.alpha_shares]
    return [count for count in dict.fromkeys(counts) if count != default_alpha(context)]


def default_alpha(context: Context) -> int:
    return max(1, round(CoKV().alpha_share * context.num_players))


def arms(context: Context, check: str, task: str) -> dict[str, Arm]:
    base = {f"{check}/default": own_arm(context, task, **_default(context, check))}
    if check == ALPHA:
        return base | {f"{ALPHA}/{n}": own_arm(context, task, alpha=n) for n in alphas(context)}
    if check == WINDOW:
        return base | {f"{WINDOW}/{w}": own_arm(context, task, window_size=w) for w in _windows(context)}
    if not context.experiment.protocol.query_aware:
        return {}
    own = own_arm(context, task)
    return {f"{check}/{cache}": Arm(own.method, own.params, own.kv_budget, own.profile, cache) for cache in CACHES}  # type: ignore[arg-type]


def _default(context: Context, check: str) -> dict[str, Any]:
    return {ALPHA: {"alpha": default_alpha(context)}, WINDOW: {"window_size": DEFAULT_WINDOW}}.get(check, {})


def _windows(context: Context) -> list[int]:
    return [window for window in context.spec.windows if window != DEFAULT_WINDOW]


def rows(context: Context, check: str, answered: Answered) -> list[Row]:
    base = f"{check}/default"
    if check == ALPHA:
        default, n = default_alpha(context), context.num_players
        return [
            against(answered, check, f"alpha = {a} of {n} heads better than {default}?", f"{check}/{a}", base)
            for a in alphas(context)
        ]
    if check == WINDOW:
        return [
            against(answered, check, f"A window of {w} better than {DEFAULT_WINDOW}?", f"{check}/{w}", base)
            for w in _windows(context)
        ]
    what = "First token from the compressed cache: scores above those from the prefill?"
    if not context.experiment.protocol.query_aware:
        return [not_run(check, what, "the question arrives on the compressed cache, and so does the first token")]
    return [against(answered, check, what, f"{check}/compressed", f"{check}/prefill")]
