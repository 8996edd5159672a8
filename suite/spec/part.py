"""The base class of all sections of an experiment file: unknown keys and wrong types are refused, never converted."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from cokv.types import KVBudget

Count = Annotated[int, Field(ge=1, lt=1 << 31)]


def _budget(value: int | str) -> int | str:
    budget = KVBudget.parse(value)
    if budget.slots is not None and budget.slots >= 1 << 31:
        raise ValueError(f"got {value} KV slots per head, expected fewer than {1 << 31}")
    return budget.nominal


Budget = Annotated[int | str, AfterValidator(_budget)]  # 256, or "20%"


class Part(BaseModel):
    """One section of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values or len(set(values)) < len(values):
        raise ValueError(f"got {list(values)}, expected at least one value, each once")
    return values


def nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"expected one of {', '.join(known)}"
