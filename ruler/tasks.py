"""RULER's thirteen tasks and their parameters, once as published and once small enough for the embedded model.

`official` parameters follow NVIDIA/RULER `scripts/synthetic.yaml` and `scripts/data/synthetic/constants.py`. `mini` keeps every
structural parameter (how many keys, values, queries, chains, hops) and shrinks what a 1k-token prompt or a word-level vocabulary cannot
hold: keys are one word, boxes and coded words come from a list, common words are five times ten among words listed twice.
"""

import difflib
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


def _table(mini: bool) -> dict[str, Task]:
    word = "word" if mini else "words"
    letters = 0 if mini else 5
    one, many, code = (12, 48, 48) if mini else (128, 128, 128)
    tasks = [
        Task("niah_single_1", "niah", "all", one, _niah("noise", word, "numbers")),
        Task("niah_single_2", "niah", "all", one, _niah("essay", word, "numbers")),
        Task("niah_single_3", "niah", "all", code, _niah("essay", word, "uuids")),
        Task("niah_multikey_1", "niah", "all", one, _niah("essay", word, "numbers", k=4)),
        Task("niah_multikey_2", "niah", "all", one, _niah("needle", word, "numbers")),
        Task("niah_multikey_3", "niah", "all", code, _niah("needle", "uuids", "uuids")),
        Task("niah_multivalue", "niah", "all", many, _niah("essay", word, "numbers", v=4)),
        Task("niah_multiquery", "niah", "all", many, _niah("essay", word, "numbers", q=4)),
        Task("vt", "vt", "all", 40 if mini else 30, {"num_chains": 1, "num_hops": 4, "letters": letters}),
        Task(
            "cwe",
            "cwe",
            "all",
            24 if mini else 120,
            {"freq_cw": 10, "freq_ucw": 2, "num_cw": 5, "numbered": False, "compounds": False}
            if mini
            else {"freq_cw": 30, "freq_ucw": 3, "num_cw": 10, "numbered": True, "compounds": True},
        ),
        Task(
            "fwe",
            "fwe",
            "all",
            12 if mini else 50,
            {"alpha": 2.0, "letters": 0 if mini else 6, "vocab_size": 60 if mini else 2000},
        ),
        Task("qa_1", "qa", "part", 16 if mini else 32, {"hops": 1}),
        Task("qa_2", "qa", "part", 24 if mini else 32, {"hops": 2}),
    ]
    return {task.name: task for task in tasks}


TASKS: dict[str, dict[str, Task]] = {"official": _table(mini=False), "mini": _table(mini=True)}


def get_task(name: str, preset: str = "official") -> Task:
    """The task's row; an unknown name is answered with the nearest ones."""
    if preset not in TASKS:
        raise RulerError(f"unknown RULER preset {preset!r}; expected one of {', '.join(PRESETS)}")
    table = TASKS[preset]
    if name not in table:
        near = difflib.get_close_matches(name, table, n=3) or list(table)
        raise RulerError(f"unknown RULER task {name!r}; did you mean {', '.join(near)}?")
    return table[name]
