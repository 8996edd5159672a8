"""claims.toml as data, checked: what papers claim, and how a run is asked about it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from reports.claims.expressions import EXPRESSIONS
from reports.claims.published import published_value
from reports.errors import ReportError

Side = Literal["above", "at least", "below", "at most", "within"]
SCOPES = ("general", "setting")
CONDITIONS: Mapping[str, type] = {
    "models": list,
    "benchmark": str,
    "tasks": list,
    "query_aware": bool,
    "official_data": bool,
    "protocol": str,
    "length": int,
    "device": str,
}
PUBLISHED = {"paper", "model", "dataset", "method", "budget", "baseline", "baseline_budget"}
REQUIRED = ("id", "short", "text", "paper", "source", "scope", "side", "bar", "needed", "expression")
OPTIONAL = ("tolerance", "bar_is", "condition", "published")


@dataclass(frozen=True)
class Claim:
    """One entry of claims.toml. bar, tolerance: in the expression's unit. published: the source's value, if tabled."""

    id: str
    short: str
    text: str
    paper: str
    source: str
    scope: str
    side: Side
    bar: float
    needed: str
    expression: str
    arguments: Mapping[str, Any]
    tolerance: float = 0.0
    bar_is: str = ""
    condition: Mapping[str, Any] = field(default_factory=dict)
    published: float | None = None

    @property
    def unit(self) -> str:
        return EXPRESSIONS[self.expression].unit


@cache
def claims() -> tuple[Claim, ...]:
    """All that ship, in the file's order."""
    return read_claims(files("reports.claims").joinpath("claims.toml").read_text(encoding="utf-8"), "claims.toml")


def read_claims(text: str, source: str) -> tuple[Claim, ...]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ReportError(f"{source}: not TOML ({error}); correct the line") from None
    entries = document.get("claim")
    if document.keys() != {"claim"} or not isinstance(entries, list) or not entries:
        raise ReportError(
            f"{source}: expected a list of [[claim]] and nothing else, got {', '.join(document) or 'nothing'}"
        )
    listed = [_claim(entry, f"{source}: claim {number}") for number, entry in enumerate(entries, start=1)]
    seen: set[str] = set()
    for claim in listed:
        if claim.id in seen:
            raise ReportError(f"{source}: id {claim.id!r} stands twice; give each claim its own")
        seen.add(claim.id)
    return tuple(listed)


def _claim(entry: object, place: str) -> Claim:
    if not isinstance(entry, Mapping):
        raise ReportError(f"{place}: expected a table, got {entry!r:.40}")
    place = f"{place} ({entry.get('id')!r:.40})"
    if missing := [name for name in REQUIRED if name not in entry]:
        raise ReportError(f"{place}: lacks {', '.join(missing)}")
    if unknown := sorted(entry.keys() - {*REQUIRED, *OPTIONAL}):
        raise ReportError(f"{place}: unknown {', '.join(unknown)}; expected {', '.join((*REQUIRED, *OPTIONAL))}")
    texts = {name: entry.get(name, "") for name in ("id", "short", "text", "paper", "source", "needed", "bar_is")}
    if bad := [name for name, value in texts.items() if not isinstance(value, str) or not (value or name == "bar_is")]:
        raise ReportError(f"{place}: {', '.join(bad)} must be text")
    if entry["scope"] not in SCOPES:
        raise ReportError(f"{place}: scope {entry['scope']!r:.40}, expected {' or '.join(SCOPES)}")
    if entry["side"] not in get_args(Side):
        raise ReportError(f"{place}: side {entry['side']!r:.40}, expected one of {', '.join(get_args(Side))}")
    name, arguments = _expression(entry["expression"], place)
    published = _published(entry.get("published"), EXPRESSIONS[name].relative, place)
    bar, tolerance = entry["bar"], entry.get("tolerance", 0.0)
    if bar == "published":
        if published is None:
            raise ReportError(f'{place}: bar = "published" needs a table `published` that says which values')
        bar = published
    if any(isinstance(number, bool) or not isinstance(number, int | float) for number in (bar, tolerance)):
        raise ReportError(f'{place}: bar must be a number or "published", tolerance a number, got {bar!r:.40}')
    if tolerance < 0 or (entry["side"] == "within" and tolerance == 0):
        raise ReportError(f"{place}: tolerance must be at least 0, and above 0 for side within, got {tolerance}")
    return Claim(
        **{key: str(value) for key, value in texts.items()},
        scope=entry["scope"],
        side=entry["side"],
        bar=float(bar),
        expression=name,
        arguments=arguments,
        tolerance=float(tolerance),
        condition=_condition(entry.get("condition", {}), place),
        published=published,
    )


def _expression(value: object, place: str) -> tuple[str, dict[str, Any]]:
    name = value.get("name") if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(name, str) or name not in EXPRESSIONS:
        raise ReportError(f"{place}: unknown expression {name!r:.40}; expected one of {', '.join(sorted(EXPRESSIONS))}")
    arguments = {key: inner for key, inner in value.items() if key != "name"}
    EXPRESSIONS[name].check(arguments, place)
    return name, arguments


def _condition(value: object, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ReportError(f"{place}: condition must be a table, got {value!r:.40}")
    for key, inner in value.items():
        if key not in CONDITIONS:
            raise ReportError(f"{place}: unknown condition {key!r}; expected one of {', '.join(CONDITIONS)}")
        if type(inner) is not CONDITIONS[key] or (
            isinstance(inner, list) and not (inner and all(isinstance(item, str) for item in inner))
        ):
            raise ReportError(f"{place}: condition {key} must be {CONDITIONS[key].__name__}, got {inner!r:.40}")
    return dict(value)


def _published(value: object, relative: str, place: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not PUBLISHED >= value.keys() >= {"paper", "method", "budget"}:
        raise ReportError(
            f"{place}: published needs paper, method and budget, and knows {', '.join(sorted(PUBLISHED))}"
        )
    return published_value({key: str(inner) for key, inner in value.items()}, relative, place)
