"""Check 7: KIVI's bits at equal bytes. Are more tokens in 4 bits worth more than fewer as the model stores them, and
are bits that follow the head scores worth more than bits that do not?

CoKV keeps B tokens per head as they are, or as many in 4 bits as take the same bytes. A step and a smallest value of
each group, and the newest tokens in full precision, are counted, so that is not 4 B. Bytes are measured on every
sample; where two arms differ by more than rules.BYTES nothing is decided.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from cokv.cache.policies.quantize import Quantize, bits_by_score
from cokv.types import HeadScores
from suite.checks.answers import Answered, Arm
from suite.checks.compared import against
from suite.checks.context import Context, Row, not_run, samples_of
from suite.checks.rules import BYTES
from suite.checks.settings import own_arm

NAME = "bits"
PACKED = Quantize(bits=4, group=32, residual=8)
WHOLE = {"group": 32, "residual": 32}  # of the arms that keep every token
MEASURED = ("bytes", "slots")
AS_IS, FOUR = f"{NAME}/16", f"{NAME}/4"
BY_SCORE, AT_RANDOM, MIXED, EVEN = (f"{NAME}/{name}" for name in ("by score", "at random", "2 and 8 by score", "4 all"))


def arms(context: Context, task: str) -> dict[str, Arm]:
    own, profile = own_arm(context, task), context.scores[task]
    first = own.first_token
    out = {
        BY_SCORE: Arm("kivi_by_score", WHOLE, None, profile, first),
        AT_RANDOM: Arm("kivi_at_random", WHOLE, None, None, first),
        MIXED: Arm("kivi4", {**WHOLE, "bits": bits_by_score(profile, 4, (2, 8))}, None, None, first),
        EVEN: Arm("kivi4", WHOLE, None, None, first),
    }
    if isinstance(context.spec.kv_budget, int):
        out[AS_IS] = own
        if not own.refusal(context.loaded):  # else the run says why there is no such arm
            seq_len = samples_of(context.experiment, context.loaded, task)[0].context_ids.numel()
            slots = equal_slots(context, own, profile, seq_len)
            out[FOUR] = Arm(own.method, own.params, slots, profile, first, PACKED)
    return out


def equal_slots(context: Context, arm: Arm, profile: HeadScores, seq_len: int) -> int:
    """KV slots per head in 4 bits that take the bytes of the arm's budget, as nearly as whole slots do, on a prompt of
    `seq_len` tokens.
    """
    assert isinstance(arm.kv_budget, int)
    head_dim, itemsize = context.loaded.shape.head_dim, next(context.loaded.model.parameters()).element_size()
    bytes_of_token = 2 * head_dim * itemsize

    def taken(slots: int) -> int:
        budgets = _budgets(context, arm, profile, slots, seq_len)
        return sum(PACKED.head_bytes(count, 4, head_dim, itemsize) for count in budgets)

    target = sum(_budgets(context, arm, profile, arm.kv_budget, seq_len)) * bytes_of_token
    candidates = range(arm.kv_budget, max(seq_len, arm.kv_budget + 1))
    low, high = candidates.start, candidates.stop - 1
    while low < high:  # bytes grow with slots, but for a step where a group fills
        middle = (low + high) // 2
        low, high = (middle + 1, high) if taken(middle) < target else (low, middle)
    near = [slots for slots in range(low - PACKED.group, low + PACKED.group + 1) if slots in candidates]
    return min(near, key=lambda slots: (abs(taken(slots) - target), slots))


def _budgets(context: Context, arm: Arm, profile: HeadScores, slots: int, seq_len: int) -> Sequence[int]:
    """Slots of every head under the arm's allocation."""
    method, shape = arm.build(), context.loaded.shape
    assert method.allocator is not None and method.scorer is not None
    if slots >= seq_len:
        return [seq_len] * context.num_players
    blank = [torch.zeros(()).expand(shape.num_kv_heads, seq_len)] * shape.num_layers
    total, reserved = slots * context.num_players, method.scorer.reserved(seq_len)
    budgets = method.allocator.budgets(blank, total, seq_len, reserved, profile)
    return [int(count) for count in budgets.values.ravel()]


def rows(context: Context, answered: Answered) -> list[Row]:
    size = 8 * next(context.loaded.model.parameters()).element_size()
    what = f"As many bytes of tokens in 4 bits better than {context.spec.kv_budget} tokens in {size} bits?"
    if isinstance(context.spec.kv_budget, int):
        out = [_row(context, answered, what, FOUR, AS_IS)]
    else:
        reason = f"kv_budget is {context.spec.kv_budget}, expected a number of slots, from which equal bytes follow"
        out = [not_run(NAME, what, reason)]
    out.append(
        _row(
            context, answered, "4 bits for the best half and 2 for the rest better than at random?", BY_SCORE, AT_RANDOM
        )
    )
    out.append(
        _row(context, answered, "8 bits for the best third and 2 for the rest better than 4 for all?", MIXED, EVEN)
    )
    return out


def _row(context: Context, answered: Answered, what: str, arm: str, base: str) -> Row:
    tasks = [] if answered.infeasible(arm) or answered.infeasible(base) else answered.tasks_of(arm, base)
    if not tasks:
        return against(answered, NAME, what, arm, base)
    measured = {
        what: {"arm": answered.mean(what, arm, tasks), "base": answered.mean(what, base, tasks)} for what in MEASURED
    }
    taken, base_taken = measured["bytes"].values()
    assert taken is not None and base_taken is not None
    apart = abs(taken / base_taken - 1)
    blocked = f"bytes differ by {100 * apart:.1f} %" if apart > BYTES else ""
    row = against(answered, NAME, what, arm, base, blocked=blocked)
    return {**row, **{what: values for what, values in measured.items() if None not in values.values()}}
