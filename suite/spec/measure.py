"""Latency and memory measurements: [measure]."""

from __future__ import annotations

from pydantic import model_validator

from cokv.types import KVBudget
from suite.spec.part import Budget, Count, Part


class MeasureSpec(Part):
    """Decode latency and memory of each method against the full cache."""

    kv_budget: Budget
    prompt_tokens: Count
    new_tokens: Count = 64
    batch: Count = 1
    repeats: Count = 5

    @model_validator(mode="after")
    def _compresses(self) -> MeasureSpec:
        if KVBudget.parse(self.kv_budget).of(self.prompt_tokens) >= self.prompt_tokens:
            raise ValueError(
                f"kv_budget {self.kv_budget} holds the whole prompt of {self.prompt_tokens} tokens, so nothing would "
                "be compressed; choose a kv_budget below prompt_tokens"
            )
        return self
