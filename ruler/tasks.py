"""RULER's thirteen tasks and their parameters, once as published and once small enough for the embedded model.

`official` parameters follow NVIDIA/RULER `scripts/synthetic.yaml` and `scripts/data/synthetic/constants.py`, and what
its generators add by themselves: worked examples in `vt` and `cwe`, fewer repetitions in `cwe` below 4096 tokens, a
`fwe` vocabulary that grows with the length. `mini` keeps every structural parameter (how many keys, values, queries,
chains, hops) and shrinks what a 1k-token prompt or a word-level vocabulary cannot hold: keys are one word, boxes and
coded words come from a list, common words are five times ten among words listed twice, and there are no worked
examples.
"""

import difflib
from dataclasses import replace
from typing import Any

from ruler.errors import RulerError
from ruler.sample import Task

PRESETS = ("official", "mini")


def _niah(haystack: str, keys: str, values: str, k: int = 1, v: int = 1, q: int = 1) -> dict[str, Any]:
    return {
        "type_haystack": haystack,
        "type_needle_k": keys,
        "type_needle_v": values,
        "num_needle_k": k,
        "num_needle_v": v,
        "num_needle_q": q,
    }


def _official_niah(haystack: str, keys: str, values: str, **counts: int) -> dict[str, Any]:
    return _niah(haystack, keys, values, **counts) | {"places": "depths" if haystack == "essay" else "distinct"}


_OFFICIAL = (
    Task("niah_single_1", "niah", "all", 128, _official_niah("noise", "words", "numbers")),
    Task("niah_single_2", "niah", "all", 128, _official_niah("essay", "words", "numbers")),
    Task("niah_single_3", "niah", "all", 128, _official_niah("essay", "words", "uuids")),
    Task("niah_multikey_1", "niah", "all", 128, _official_niah("essay", "words", "numbers", k=4)),
    Task("niah_multikey_2", "niah", "all", 128, _official_niah("needle", "words", "numbers")),
    Task("niah_multikey_3", "niah", "all", 128, _official_niah("needle", "uuids", "uuids")),
    Task("niah_multivalue", "niah", "all", 128, _official_niah("essay", "words", "numbers", v=4)),
    Task("niah_multiquery", "niah", "all", 128, _official_niah("essay", "words", "numbers", q=4)),
    Task(
        "vt",
        "vt",
        "all",
        30,
        {
            "num_chains": 1,
            "num_hops": 4,
            "letters": 5,
            "places": "distinct",
            "form": "list",
            "example": {"letters": 3, "size": 50},
        },
    ),
    Task(
        "cwe",
        "cwe",
        "all",
        120,
        {
            "freq_cw": 30,
            "freq_ucw": 3,
            "num_cw": 10,
            "numbered": True,
            "compounds": True,
            "example": {"num_words": 40, "freq_cw": 10, "freq_ucw": 3},
            "below_4096": {"freq_cw": 6, "freq_ucw": 1, "example": {"num_words": 20, "freq_cw": 3, "freq_ucw": 1}},
        },
    ),
    Task("fwe", "fwe", "all", 50, {"alpha": 2.0, "letters": 6, "vocab_size": 2000, "tokens_per_word": 50}),
    Task("qa_1", "qa", "part", 32, {"hops": 1, "surnames": True, "plain": True}),
    Task("qa_2", "qa", "part", 32, {"hops": 2, "surnames": True, "plain": True}),
)

_MINI = (
    Task("niah_single_1", "niah", "all", 12, _niah("noise", "word", "numbers")),
    Task("niah_single_2", "niah", "all", 12, _niah("essay", "word", "numbers")),
    Task("niah_single_3", "niah", "all", 48, _niah("essay", "word", "uuids")),
    Task("niah_multikey_1", "niah", "all", 12, _niah("essay", "word", "numbers", k=4)),
    Task("niah_multikey_2", "niah", "all", 12, _niah("needle", "word", "numbers")),
    Task("niah_multikey_3", "niah", "all", 48, _niah("needle", "uuids", "uuids")),
    Task("niah_multivalue", "niah", "all", 48, _niah("essay", "word", "numbers", v=4)),
    Task("niah_multiquery", "niah", "all", 48, _niah("essay", "word", "numbers", q=4)),
    Task("vt", "vt", "all", 40, {"num_chains": 1, "num_hops": 4, "letters": 0}),
    Task("cwe", "cwe", "all", 24, {"freq_cw": 10, "freq_ucw": 2, "num_cw": 5, "numbered": False, "compounds": False}),
    Task("fwe", "fwe", "all", 12, {"alpha": 2.0, "letters": 0, "vocab_size": 40}),
    Task("qa_1", "qa", "part", 16, {"hops": 1}),
    Task("qa_2", "qa", "part", 24, {"hops": 2}),
)

TASKS: dict[str, dict[str, Task]] = {
    "official": {task.name: task for task in _OFFICIAL},
    "mini": {task.name: task for task in _MINI},
}


def get_task(name: str, preset: str = "official") -> Task:
    """The task's row; an unknown name is answered with the nearest ones."""
    if preset not in TASKS:
        raise RulerError(f"unknown RULER preset {preset!r}; expected one of {', '.join(PRESETS)}")
    table = TASKS[preset]
    if name not in table:
        near = difflib.get_close_matches(str(name), table, n=3) or list(table)
        raise RulerError(f"unknown RULER task {name!r}; did you mean {', '.join(near)}?")
    return table[name]


def at_length(task: Task, length: int) -> Task:
    """The task with the parameters that depend on the length settled, as the official generators settle them."""
    params = dict(task.params)
    short = params.pop("below_4096", {})
    if length < 4096:
        params |= short
    if share := params.pop("tokens_per_word", 0):
        params["vocab_size"] = max(5, length // share)
    return replace(task, params=params)
