"""No method keeps another's tokens under its own name: what would be another method is infeasible, or says so."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cokv.cache.prefill import prefill
from cokv.methods.allocators.marginal import keep_ratios
from cokv.methods.method import Method, prefill_requirements
from cokv.methods.registry import METHODS, get_method
from cokv.model.loading import load_model
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import HeadScores, Infeasible
from suite.cli.commands import experiment_of
from suite.tasks import benchmarks

TASKS = ("niah_single_2", "vt", "qasper")
BUDGETS = (64, 128, 256, 512)
SIZES = {"window_size": 8, "chunk_size": 512}  # as in the embedded experiment
DUO, RAZOR, FASTGEN = (("duoattention", "normalized"), ("razorattention", "normalized"), ("fastgen", "normalized"))
INFEASIBLE = {DUO, RAZOR, FASTGEN, ("duoattention", "num_sinks=4, local=28")}  # of some budgets on some prompts
FLOORS = {DUO: 512, RAZOR: 256, ("duoattention", "num_sinks=4, local=28"): 128}  # where these prompts are feasible
VARIANTS = ({"name": "duoattention", "num_sinks": 4, "local": 28}, {"name": "arkvale", "page": 8})


def rows() -> list[Method]:
    """Every method, in its normalized preset, and every ablation of ours; sizes as in the embedded experiment."""
    pairs = [(name, "normalized") for name in METHODS]
    pairs += [
        (row.name, preset)
        for row in METHODS.values()
        for preset in row.presets
        if row.with_preset(preset).ours and not row.ours
    ]
    listed = []
    for name, preset in pairs:
        known = METHODS[name].parameters
        listed.append(get_method(name, preset, **{k: v for k, v in SIZES.items() if k in known}))
    return listed + [get_method(**variant) for variant in VARIANTS]


def profile_for(method: Method, place: int) -> Any:
    """A valid profile of the method's kind, another one for each method."""
    generator = np.random.default_rng(place)
    if not method.needs_profile:
        return None
    if method.name == "lukv":
        return RatioCurves(keep_ratios(generator.exponential(size=(4, 4, 200)) * generator.random((4, 4, 1))))
    return HeadScores(generator.random((4, 4)))


def same_by_the_registry(name: str) -> set[str]:
    """The method and those with which it coincides somewhere."""
    return {name, *METHODS[name].coincides}


@pytest.mark.parametrize("task", TASKS)
def test_equal_selections_are_those_that_the_registry_states(task: str) -> None:
    loaded, methods = load_model(), rows()
    prompt = next(benchmarks.test_prompts(experiment_of(Path("embedded")), loaded, task, 0))
    window, observers = prefill_requirements(methods)
    read = prefill(loaded.model, prompt.context_ids, window, observers, loaded.tokenizer)
    cache: dict[Any, Any] = {}
    coincided = set()
    for slots in BUDGETS:
        assert slots < read.seq_len, "a budget of the whole prompt keeps all of it, whatever the method"
        selections, whole = {}, set()
        for place, method in enumerate(methods):
            try:
                kept = method.select(read, slots, profile_for(method, place), cache)
            except Infeasible:
                continue
            label = (method.name, method.variant)
            assert kept.mask().all() == (method.scorer is None), f"{label} at {slots}"
            (whole.add(label) if method.scorer is None else selections.__setitem__(label, kept))
        for first, second in combinations(selections, 2):
            if selections[first] == selections[second]:
                stated = same_by_the_registry(first[0]) & same_by_the_registry(second[0])
                assert first[0] != second[0] and stated, f"{first} and {second} keep the same tokens at {slots}"
                coincided.add(frozenset({first[0], second[0]}))
        missing = {(m.name, m.variant) for m in methods} - {*selections} - whole
        assert missing <= INFEASIBLE and not missing & {label for label, least in FLOORS.items() if slots >= least}
    pyramid = frozenset({"pyramidkv", "snapkv"})
    assert (pyramid in coincided) == (read.seq_len < 2 * (BUDGETS[-1] - 8)), "PyramidKV is uniform there, as released"
    assert frozenset({"snapkv_kivi4", "snapkv"}) in coincided


def test_below_its_floor_a_method_says_so() -> None:
    """DuoAttention and RazorAttention would be StreamingLLM, FastGen would keep special tokens alone."""
    loaded = load_model()
    prompt = next(benchmarks.test_prompts(experiment_of(Path("embedded")), loaded, "niah_single_2", 0))
    for name, words in (
        ("duoattention", "1 whole head, and 64 sinks and 256 newest tokens"),
        ("razorattention", "2 whole heads"),
        ("fastgen", "expected at least 0.5"),
        ("arkvale", "pages of 32"),
    ):
        method, profile = get_method(name), profile_for(get_method(name), 0)
        read = prefill(loaded.model, prompt.context_ids, *prefill_requirements([method]), loaded.tokenizer)

        def keep(slots: int, method: Method = method, read: Any = read, profile: Any = profile) -> None:
            method.bound_policy(slots, read.seq_len, 4, 4)
            method.select(read, slots, profile)

        with pytest.raises(Infeasible, match=words) as caught:
            keep(64)
        enough = int(re.search(r"at least (\d+)(?! KV)(?!.\d)", str(caught.value).replace("at least 0.5", ""))[1])
        keep(enough)
        with pytest.raises(Infeasible):
            keep(enough - 1)
