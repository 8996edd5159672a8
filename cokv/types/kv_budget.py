"""`kv_budget`, the one number a user sets: mean KV slots per head, or a share of the prompt's tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from cokv.types.errors import CokvError, Infeasible

MOST = (1 << 31) - 1  # slots per head
Nominal: TypeAlias = "int | str"  # as users write it: 256, or "20%"


@dataclass(frozen=True)
class KVBudget:
    """Either `slots`, or a `share` of the prompt's tokens. Window and sinks are included in both."""

    slots: int | None = None
    share: Fraction | None = None

    @classmethod
    def parse(cls, value: Any) -> KVBudget:
        """256, "256", "20%" or "12.5%"; a KVBudget is returned as it is. A bare ratio is refused: it can be read two
        ways.
        """
        if isinstance(value, KVBudget):
            return value
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= value <= MOST:
            return cls(slots=int(value))
        if isinstance(value, str) and re.fullmatch(r"[1-9]\d{0,8}", value):
            return cls(slots=int(value))
        if isinstance(value, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", value)):
            share = Fraction(match[1]) / 100
            if 0 < share <= 1:
                return cls(share=share)
        raise CokvError(
            f"kv_budget is {value!r}, expected a positive whole number of KV slots per head, or a share of the prompt's"
            ' tokens above 0% and up to 100%, such as "20%"'
        )

    def of(self, seq_len: int) -> int:
        """KV slots per head, in the mean over heads, for a prompt of `seq_len` tokens."""
        if self.share is None:
            assert self.slots is not None
            return self.slots
        slots = int(self.share * seq_len)  # Fraction: 20 % of 1005 is 201, never 200
        if slots < 1:
            raise Infeasible(f"kv_budget {self} of a prompt of {seq_len} tokens is less than one slot per head")
        return slots

    @property
    def nominal(self) -> Nominal:
        """As it stands in records and experiment files."""
        return str(self) if self.slots is None else self.slots

    def __str__(self) -> str:
        if self.share is None:
            return str(self.slots)
        percent = self.share * 100
        return f"{int(percent)}%" if percent.denominator == 1 else f"{float(percent):g}%"
