"""Verdicts for readers: a table, three sentences, and claims.json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reports.claims.entries import Claim
from reports.claims.expressions import EXPRESSIONS
from reports.claims.verdicts import CONTRADICTED, INCONCLUSIVE, NOT_COMPARABLE, REPRODUCED, VERDICTS, Judged
from reports.intervals import CONFIDENCE
from reports.rundir import EMBEDDED
from reports.table import MISSING, Entry, Table, group_starts
from reports.text import visible

FILE = "claims.json"
SCHEMA = 1
SIGNED = ("difference", "masking_difference")
OF_EMBEDDED = (
    "The embedded model is for tests: these verdicts say what holds on it, "
    "and nothing of the models that papers speak of."
)


def claims_table(judged: Sequence[Judged]) -> Table:
    """One row per claim, grouped by verdict: what was expected, what was measured, and what would be needed."""
    ordered = sorted(judged, key=lambda item: VERDICTS.index(item.verdict))
    body = tuple(
        (
            Entry(f"{item.claim.short} ({item.claim.source})"),
            Entry(item.verdict, bold=item.verdict in (REPRODUCED, CONTRADICTED)),
            Entry("; ".join(filter(None, (measured_text(item), f"expected {expected_text(item.claim)}")))),
            Entry(behind_text(item)),
        )
        for item in ordered
    )
    columns = ("Claim", "Verdict", "Measured, expected", "Evidence, or what is needed")
    title = f"What papers claim, on {judged[0].model}" if judged else "What papers claim"
    rules = group_starts([item.verdict for item in ordered])
    return Table("claims", title, columns, body, notes(judged), rules, left=4)


def claims_sentences(judged: Sequence[Judged]) -> list[str]:
    """Three: what was reproduced, what was contradicted, what could not be told."""
    by_verdict = {verdict: [item for item in judged if item.verdict == verdict] for verdict in VERDICTS}
    model = judged[0].model if judged else "this run"

    def listed(verdict: str) -> str:
        return "; ".join(item.claim.short for item in by_verdict[verdict])  # type: ignore[index]

    sentences = []
    for verdict in (REPRODUCED, CONTRADICTED):
        items = by_verdict[verdict]
        head = f"{verdict.capitalize()} on {model}"
        counted = f"{head} ({len(items)} of {len(judged)} claims)"
        sentences.append(f"{counted}: {listed(verdict)}." if items else f"{head}: none of {len(judged)} claims.")
    undecided, apart = by_verdict[INCONCLUSIVE], by_verdict[NOT_COMPARABLE]
    counted = f"{len(undecided)} inconclusive" + (f" ({listed(INCONCLUSIVE)})" if undecided else "")
    sentences.append(
        f"Could not be told: {counted}; {len(apart)} not comparable here, since they speak of what this run does not "
        "have."
    )
    return sentences


def claims_text(judged: Sequence[Judged]) -> str:
    """For a terminal of any width: the sentences, then every claim under its verdict."""
    lines = claims_sentences(judged)
    for verdict in VERDICTS:
        items = [item for item in judged if item.verdict == verdict]
        lines += ["", f"{verdict.capitalize()}: {len(items)}"] if items else []
        for item in items:
            lines.append(f"  {item.claim.id}: {item.claim.short} ({item.claim.paper}; {item.claim.source})")
            if item.value is None:
                lines += [f"    why: {item.why}", f"    needed: {item.claim.needed}"]
            else:
                lines.append(f"    {measured_text(item)}, expected {expected_text(item.claim)}")
                lines.append(f"    {behind_text(item)}")
    return "\n".join(map(visible, [*lines, "", *notes(judged)]))


def list_text(claims: Sequence[Claim]) -> str:
    """Every claim for a terminal, without a run: what it says, where, and what a run needs to be asked about it."""
    lines = []
    for claim in claims:
        lines += [f"{claim.id} ({claim.scope}): {claim.text}", f"  source: {claim.source}"]
        lines += [f"  expected: {expected_text(claim)}", f"  needs: {claim.needed}", ""]
    return "\n".join(lines[:-1])


def write_claims(judged: Sequence[Judged], folder: str | Path) -> Path:
    """claims.json in `folder`."""
    path = Path(folder) / FILE
    text = json.dumps(as_json(judged), indent=1, ensure_ascii=False) + "\n"
    path.write_bytes(text.encode("utf-8", "backslashreplace"))  # a lone surrogate of a name becomes JSON's escape of it
    return path


def as_json(judged: Sequence[Judged]) -> dict[str, Any]:
    return {
        "kind": "verdicts on claims",
        "schema": SCHEMA,
        "model": judged[0].model if judged else None,
        "notes": list(notes(judged)),
        "sentences": claims_sentences(judged),
        "claims": [{**item.as_json(), "words": words(item)} for item in judged],
    }


def words(item: Judged) -> str:
    """What the verdict rests on, in a sentence."""
    if item.verdict == NOT_COMPARABLE:
        return behind_text(item)
    return f"{measured_text(item)}, expected {expected_text(item.claim)}; {behind_text(item)}"


def notes(judged: Sequence[Judged]) -> tuple[str, ...]:
    """How the verdicts are decided; and, of the embedded model, how little they say."""
    embedded = any(item.model == EMBEDDED for item in judged)
    return (correction_text(judged), *([OF_EMBEDDED] if embedded else []))


def correction_text(judged: Sequence[Judged]) -> str:
    counts = {item.together for item in judged if item.confidence is not None}
    together = max(counts, default=0)
    each = max((item.confidence for item in judged if item.confidence is not None), default=CONFIDENCE)
    return (
        "Reproduced or contradicted only where the whole interval lies on one side of the bar. "
        f"{together} intervals are judged at once, each at {100 * each:.2f} % (Bonferroni), so that all hold together "
        f"with {100 * CONFIDENCE:.0f} %. Bytes are counted and have no interval."
    )


def expected_text(claim: Claim) -> str:
    """Side, bar and tolerance; the published value where it is not the bar."""
    bar, tolerance = f"{claim.bar:.4g}", f"{claim.tolerance:g}"
    text = f"within {tolerance} of {bar}" if claim.side == "within" else f"{claim.side} {bar}"
    allowed = f", tolerance {tolerance}" if claim.tolerance and claim.side != "within" else ""
    ours = f" ({claim.bar_is})" if claim.bar_is else ""
    printed = claim.published is not None and claim.published != claim.bar
    published = f"; published {_number(claim, claim.published)}" if printed and claim.published is not None else ""
    return f"{text} {claim.unit}{allowed}{ours}{published}"


def measured_text(item: Judged) -> str:
    """The value and its interval; "" where there is none."""
    if item.value is None:
        return ""
    value = f"{_number(item.claim, item.value)} {item.claim.unit}"
    if item.exact:
        return value
    if item.low is None and item.high is None:
        return f"{value}, no interval"
    low = MISSING if item.low is None else _number(item.claim, item.low)
    high = "any" if item.high is None else _number(item.claim, item.high)
    return f"{value} [{low}, {high}]"


def behind_text(item: Judged) -> str:
    if item.verdict == NOT_COMPARABLE:
        return f"{item.why}. Needed: {item.claim.needed}"
    count = "" if item.exact else f"{item.n:,} {item.of}; "
    return f"{count}{item.where}" + (f" ({item.why})" if item.why else "")


def _number(claim: Claim, value: float) -> str:
    sign = "+" if claim.expression in SIGNED else ""
    text = format(value, f"{sign}.{EXPRESSIONS[claim.expression].digits}f")
    return (text[1:] if text[0] in "+-" and float(text) == 0 else text).replace("-", "\N{MINUS SIGN}")
