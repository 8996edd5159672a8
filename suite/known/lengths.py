"""Tokens of a benchmark's prompts without its data: the data sets' printed averages, cut as the protocol cuts."""

from __future__ import annotations

import functools
import tomllib
from importlib.resources import files

from longbench.tasks import base_name


@functools.cache
def _longbench() -> dict[str, dict[str, float]]:
    return tomllib.loads((files("suite.known") / "longbench_lengths.toml").read_text(encoding="utf-8"))


def longbench_tokens(dataset: str, max_length: int | None) -> int | None:
    """Mean tokens of a data set's prompts, at most: the mean of cut lengths is no more than the cut mean.

    max_length: where the protocol cuts; None: nowhere. None for a data set whose length is not known.
    """
    facts = _longbench().get(base_name(dataset))
    if facts is None:
        return max_length
    tokens = round(facts["mean_words"] * facts["tokens_per_word"])
    return tokens if max_length is None else min(tokens, max_length)
