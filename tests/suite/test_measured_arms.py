"""A row of the latency table from what was seen turn by turn."""

from __future__ import annotations

import pytest

from suite.run.measured_arms import DYNAMIC, RAGGED, MeasuredArm, table_row


def arm(runtime: str, joules: tuple[float | None, ...] = (None, None), method: str = "full") -> MeasuredArm:
    made = MeasuredArm(method, "normalized", runtime, build=lambda: None)
    for turn, energy in enumerate(joules):
        seconds = (2.0 if runtime == DYNAMIC else 1.0) * (turn + 1)
        result = {"seconds": seconds, "rss_peak_bytes": 100 + turn}
        made.took(result | ({} if energy is None else {"energy_joules": energy}), [seconds / 4] * 4, 0.5)
    return made


def row_of(measured: MeasuredArm) -> dict:
    arms = {a.key: a.decode_seconds for a in (arm(DYNAMIC), arm(RAGGED), measured)}
    return table_row(measured, arms, [3.0, 5.0], prompt_tokens=10, new_tokens=4, batch=2)


def test_time_to_the_first_token_and_between_tokens_are_told_apart():
    row = row_of(arm(RAGGED, method="snapkv"))
    assert row["first_token_ms"] == {"median": 4500, "min": 3500, "max": 5500}, "a turn's prefill and its choice"
    assert row["between_tokens_ms"] == {"median": 375, "min": 250, "max": 500}
    assert row["prefill_ms"] == 4000 and row["decode_ms_per_token"] == 500
    assert row["ratio_to"]["dynamic_cache"] == {"median": 0.5, "min": 0.5, "max": 0.5}
    assert row["peak_bytes"] == {"rss": 100}, "of the first turn"


@pytest.mark.parametrize(
    ("joules", "expected"),
    [((3.0, 5.0), 1000 * 8 / (2 * 4 * 2)), ((None, None), None), ((3.0, None), None), ((0.0, 0.0), None)],
)
def test_energy_is_per_token_of_each_row_and_absent_unless_every_turn_has_it(joules, expected):
    assert row_of(arm(RAGGED, joules)).get("energy_mj_per_token") == expected
