"""Code completion: a step repeated (lcc), a function of another file called (repobench-p). `size` counts steps and
files.
"""

from __future__ import annotations

import random

from longbench.mini import words
from longbench.mini.text import Draft, Query, number


def lcc(size: int, rng: random.Random) -> Draft:
    """The last line names an earlier step of the file: its call is the answer."""
    keys = rng.sample(words.KEYS, min(max(size, 2), len(words.KEYS)))
    calls = {key: f"{rng.choice(words.KEYS)}.{rng.choice(words.DEEDS)}({number(rng)})" for key in keys}
    repeated = rng.choice(keys)
    text = "".join(f"# load {key}\n{call}\n\n" for key, call in calls.items())
    return Draft(f"{text}# load {repeated}\n", (Query("", (calls[repeated],), f"{calls[repeated]}\n"),))


def repobench_p(size: int, rng: random.Random) -> Draft:
    """Files of one function each, then one that imports one of them and begins to call it: the rest is the answer."""
    keys = rng.sample(words.KEYS, min(max(size, 2), len(words.KEYS)))
    lists = {key: f"({', '.join(rng.sample(words.KEYS, 3))})" for key in keys}
    files = [
        f"# {key}.py\ndef make_{key}{names}:\n    return {rng.choice(words.THINGS)}\n\n" for key, names in lists.items()
    ]
    queries = []
    for key in rng.sample(keys, min(len(keys), 5)):
        queries.append(Query(f"# main.py\nfrom {key} import make_{key}\nmake_{key}", (lists[key],), f"{lists[key]}\n"))
    return Draft("".join(files), tuple(queries))
