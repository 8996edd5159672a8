"""Verdicts that were published against verdicts of today: claims.json of a results folder must not change silently."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reports.claims.show import FILE, as_json
from reports.claims.verdicts import Judged
from reports.errors import ReportError
from reports.rundir import read_json

MISSING = "no such claim"


def changed_verdicts(folder: str | Path, judged: Sequence[Judged]) -> list[str]:
    """A line per claim whose verdict differs from that in `folder`/claims.json: both verdicts, and both evidences."""
    path = Path(folder) / FILE
    if not path.is_file():
        raise ReportError(f"{str(folder)!r} holds no {FILE}; write it with `cokv claims {folder} --out {folder}`")
    before = _by_id(read_json(path), str(path))
    after = _by_id(json.loads(json.dumps(as_json(judged))), "the verdicts of today")
    lines = []
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if _verdict(old) != _verdict(new):
            lines.append(f"{name}: {_verdict(old)} before ({_words(old)}), {_verdict(new)} now ({_words(new)})")
    return lines


def _by_id(value: Mapping[str, Any], source: str) -> dict[str, Mapping[str, Any]]:
    claims = value.get("claims")
    if not isinstance(claims, list) or not all(
        isinstance(c, Mapping) and {"id", "verdict"} <= c.keys() for c in claims
    ):
        raise ReportError(f"{source}: holds no list of claims with id and verdict; write it again with `cokv claims`")
    return {str(claim["id"]): claim for claim in claims}


def _verdict(claim: Mapping[str, Any] | None) -> str:
    return str(claim["verdict"]) if claim else MISSING


def _words(claim: Mapping[str, Any] | None) -> str:
    return str(claim.get("words", "no evidence stated")) if claim else MISSING
