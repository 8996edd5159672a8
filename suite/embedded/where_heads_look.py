"""Where the embedded model's heads look while it copies an answer: `python -m suite.embedded.where_heads_look`.

RULER's needles, those that the full cache answers right: each KV head's attention by place (answer_attention.py),
and what an answer needs of the places that heads look at (needed_places.py).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from cokv import probes
from cokv.model.loading import EMBEDDED, LoadedModel, load_model
from cokv.profiles.answered_prompts import Needle
from reports.attention_plot import offset_figure
from reports.style import save
from suite.embedded.answer_attention import REACH, RECENT, SINKS, Row, attention_rows, copied_answer
from suite.embedded.needed_places import needed_places, sentences
from suite.errors import USER_ERRORS
from suite.profiles.prompts import NEEDLES, needle_prompts
from suite.spec import Experiment, MethodSpec, ProfilesSpec, RulerSpec

READS = 0.5  # share at one offset from which a head counts as one that reads the needle
SHOWN = 0.1  # and from which the figure shows it


def needles_of(loaded: LoadedModel, length: int, samples: int) -> list[tuple[str, Needle]]:
    """`samples` of each needle task with its name, at sample numbers that neither tests nor validation use."""
    experiment = Experiment(
        name="where-heads-look",
        methods=(MethodSpec(name="full"),),
        kv_budgets=(64,),
        ruler=RulerSpec(preset="mini", length=length, tasks=NEEDLES, samples=samples),
        profiles=ProfilesSpec(prompts=samples),
    )
    names = [task for task in NEEDLES for _ in range(samples)]
    return list(zip(names, needle_prompts(experiment, loaded), strict=True))


def drawn_heads(rows: Sequence[Row]) -> list[Row]:
    """All heads of the layer with the highest peak, and others with a peak."""
    layer = max(rows, key=lambda row: row["peak"]["share"])["layer"]
    return [row for row in rows if row["layer"] == layer or row["peak"]["share"] > SHOWN]


def table(rows: Sequence[Row], title: str) -> Table:
    columns = ["layer", "KV head", "emitted token", "needle sentence", "peak at", "share there"]
    columns += [f"first {SINKS}", f"last {RECENT}", "most, how far back", "rest"]
    screen = Table(*(Column(name, justify="right") for name in columns), title=title)
    for row in rows:
        peak, back, parts = row["peak"], row["peak_back"], row["parts"]
        screen.add_row(
            str(row["layer"]),
            str(row["kv_head"]),
            f"{100 * row['emitted_token']:.1f}",
            f"{100 * row['needle_sentence']:.1f}",
            f"{peak['offset']:+d}",
            f"{100 * peak['share']:.1f}",
            f"{100 * parts['first']:.1f}",
            f"{100 * parts['last']:.1f}",
            f"{100 * back['share']:.1f}, {back['distance']}",
            f"{100 * parts['rest']:.1f}",
        )
    return screen


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help="`embedded` or a folder with another checkpoint")
    parser.add_argument("--length", type=int, default=1024, help="tokens of prompt and answer")
    parser.add_argument("--samples", type=int, default=8, help="needles per task")
    parser.add_argument("--out", type=Path, help="folder for where_heads_look.json, .png and .svg")
    args = parser.parse_args(arguments)
    if args.samples < 1 or args.length < 128:
        parser.error(f"--samples {args.samples} --length {args.length}, expected at least 1 needle and 128 tokens")
    try:
        _measure(args, sys.argv[1:] if arguments is None else arguments)
    except USER_ERRORS as error:
        parser.error(" ".join(str(error).split()))


def _measure(args: argparse.Namespace, given: Sequence[str]) -> None:
    """Measures, prints, and with --out writes. given: the arguments as the user wrote them, for the record."""
    loaded = load_model(args.model)
    named = needles_of(loaded, args.length, args.samples)
    copied = [(task, copied_answer(loaded, needle)) for task, needle in named]
    right = [answer for _, answer in copied if answer is not None]
    if not right:
        raise SystemExit(f"none of {len(named)} needles is answered right; use shorter prompts or another model")
    rows = attention_rows(loaded, right)
    title = f"{args.model}, {args.length} tokens, {len(right)} of {len(named)} needles answered right: attention in %"
    Console(width=None if sys.stdout.isatty() else 120).print(table(rows, title))
    reading = [row for row in rows if row["peak"]["share"] > READS]
    needed = needed_places(loaded, right, reading) if reading else None
    print(*(sentences(needed) if needed else ["no head has most of its attention at one offset"]), sep="\n")
    if args.out is None:
        return
    record = {
        "command": shlex.join(["python", "-m", "suite.embedded.where_heads_look", *given]),
        "versions": probes.versions(),
        "model": loaded.identity(),
        "length": args.length,
        "samples": args.samples,
        "answered_right": dict(Counter(task for task, answer in copied if answer is not None)),
        "units": "shares from 0 to 1; offsets in tokens from the emitted token's place in the needle, + is behind it",
        "offsets": list(range(-REACH, REACH + 1)),
        "heads": rows,
        "needed": needed,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "where_heads_look.json").write_text(json.dumps(record, indent=1) + "\n")
    figure = offset_figure(drawn_heads(rows), range(-REACH, REACH + 1))
    print(args.out / "where_heads_look.json", *save(figure, args.out, "where_heads_look", "svg"), sep="\n")


if __name__ == "__main__":
    main()
