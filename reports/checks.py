"""The checks of the paper's claims: checks.json as one table, and a sentence for each rule that decided a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reports.errors import ReportError
from reports.records import is_number
from reports.table import MISSING, Entry, Table, group_starts

Record = Mapping[str, Any]
VERDICTS = ("holds", "does not hold", "undecided")
TITLES = {
    "stability": "1 Two runs",
    "slices": "2 Slice sizes",
    "masking": "3 Heads cut",
    "alpha": "4 Alpha",
    "window": "5 Window",
    "profiles": "6 Profiles",
    "bits": "7 KIVI's bits",
    "utility": "8 Utility",
    "first_token": "9 First token",
    "methods": "10 Methods",
}
COUNT = "coalitions"  # unit of a row whose missing number means: never reached


def checks_table(record: Record) -> Table:
    """One row per question, in the order of the checks."""
    rows, rules = record["rows"], record["rules"]
    body = []
    for row in rows:
        question = row["what"] + (f" ({row['task']})" if row.get("task") else "")
        cells = (_result(row, rules), _verdict(row), Entry(_behind(row)))
        body.append((Entry(TITLES.get(row["check"], row["check"])), Entry(question), *cells))
    columns = ("Check", "Question", "Result, 95 % interval", "Verdict", "n")
    title = f"Checks of the paper's claims on {record['model']}"
    notes = (*_notes(record), *_rule_sentences(rows, rules))
    starts = group_starts([row["check"] for row in rows])
    return Table("checks", title, columns, tuple(body), notes, starts, left=4)


def _notes(record: Record) -> list[str]:
    settings = record["settings"]
    game = settings["game"]
    notes = [
        f"Answers: {settings['samples']} test samples of each of {', '.join(record['tasks'])}, at {_budget(settings)}; "
        "paired differences in points, 95 % intervals over samples, tasks weighted alike. Games: "
        f"{record['num_players']} KV heads, {game['prompts']} validation prompts, utility {game['utility']}; slice "
        f"sizes, utilities and first tokens on {', '.join(record['game_tasks'])}. Intervals of check 1 are over heads "
        "(bootstrap), or over random orders of the draws; those of checks 2, 8 and 9 resample the draws.",
        "A claim holds, or does not hold, where the whole interval is on one side of its bar; otherwise it is "
        f"undecided. {_correction(record['rows'])}",
    ]
    return notes + list(dict.fromkeys(row["note"] for row in record["rows"] if row.get("note")))


def _correction(rows: Sequence[Record]) -> str:
    """What was done about several questions at once, by the record: one of an older version has no p_holm."""
    if any("p_holm" in row for row in rows):
        return (
            "The rows of one check are corrected together by Holm's procedure: one is decided only where its p, "
            "corrected, is at most 0.05 too. Numbers of coalitions are over random orders, not corrected."
        )
    return "No row is corrected for the number of rows: of many true ties, one in forty looks like a gain."


def _budget(settings: Record) -> str:
    budget = settings["kv_budget"]
    return f"{budget} KV slots per head" if isinstance(budget, int) else f"{budget} of the prompt"


def _rule_sentences(rows: Sequence[Record], rules: Record) -> list[str]:
    """Of the rules in use, with the questions' checks."""
    used: dict[str, dict[str, None]] = {}
    for row in rows:
        if "rule" in row:
            used.setdefault(row["rule"], {})[str(TITLES.get(row["check"], row["check"])).split()[0]] = None
    return [
        f"{'Checks' if len(checks) > 1 else 'Check'} {', '.join(checks)}: holds if {rules[rule]['sentence']}."
        for rule, checks in used.items()
    ]


def _result(row: Record, rules: Record) -> Entry:
    if "not_run" in row:
        return Entry()
    rule = rules[row["rule"]]
    if rule["unit"] == COUNT:
        text, low, high = (_count(row.get(key), row["planned"]) for key in ("score", "low", "high"))
        return Entry(text, f"[{low}, {high}]")
    if row.get("score") is None:
        return Entry()
    form = f"{'+' if rule['sign'] else ''}.{rule['digits']}f"
    unit = f" {rule['unit']}" if rule["unit"] else ""
    text = _number(row["score"], form) + unit
    interval = f"[{_number(row['low'], form)}, {_number(row['high'], form)}]" if "low" in row else "no interval"
    extra = [f"left {_plain(row['left'], '%')}"] if row.get("left") and row["score"] != row["left"]["score"] else []
    extra += [f"{_plain(row['arm'])} against {_plain(row['base'])}"] if "arm" in row and "base" in row else []
    extra += [f"across {row['across']:.2f}, within {row['within']:.2f}"] if "across" in row and "within" in row else []
    extra += [f"Spearman {_plain(row['spearman'], digits=2)}"] if row.get("spearman") else []
    extra += [f"{row['slots']['arm']:.0f} against {row['slots']['base']:.0f} slots"] if "slots" in row else []
    extra += [f"{row['bytes']['arm']:,.0f} against {row['bytes']['base']:,.0f} bytes"] if "bytes" in row else []
    return Entry(text, "; ".join([interval, *extra]))


def _plain(row: Record, unit: str = "", digits: int = 1) -> str:
    text = f"{row['score']:.{digits}f}" + (f" {unit}" if unit else "")
    text += f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]" if "low" in row else ""
    return text.replace("-", "\N{MINUS SIGN}")


def _number(value: float, form: str) -> str:
    text = format(value, form)
    return (text[1:] if text[0] in "+-" and float(text) == 0 else text).replace("-", "\N{MINUS SIGN}")


def _count(value: int | None, planned: int) -> str:
    return f"{value:,}" if value is not None else f"> {planned:,}"


def _verdict(row: Record) -> Entry:
    """The verdict, and beside it why there is none, and which tasks are not in it."""
    if "not_run" in row:
        return Entry("not run", f"({row['not_run']})")
    why = [row["why"]] if row.get("why") else []
    why += [f"without {task}: {reason}" for task, reason in (row.get("left_out") or {}).items()]
    return Entry(str(row["verdict"]), f"({'; '.join(why)})" if why else "")


def _behind(row: Record) -> str:
    """What the interval is over; for a game also how many coalitions were evaluated."""
    if "not_run" in row:
        return MISSING
    return f"{row['n']} {row.get('of', 'samples')}" + (
        f", {row['coalitions']:,} coalitions" if "coalitions" in row else ""
    )


def check_checks(record: Record, source: str) -> None:
    """Raise ReportError unless the table can be shown."""
    rows, rules = record.get("rows"), record.get("rules")
    if not isinstance(rows, list) or not rows or not isinstance(rules, Mapping):
        raise ReportError(f"{source}: expected a list of at least one row, and the rules by name")
    settings = record.get("settings")
    if not isinstance(settings, Mapping) or not isinstance(settings.get("game"), Mapping):
        raise ReportError(f"{source}: settings must be an object with a game")
    for number, row in enumerate(rows, start=1):
        place = f"{source}: row {number}"
        if not isinstance(row, Mapping) or not all(isinstance(row.get(key), str) for key in ("check", "what")):
            raise ReportError(f"{place}: needs check and what as text, got {row!r:.60}")
        if "not_run" in row:
            continue
        if row.get("rule") not in rules or row.get("verdict") not in VERDICTS or not isinstance(row.get("n"), int):
            expected = f"a rule of {', '.join(rules)}, a verdict of {', '.join(VERDICTS)}, and n"
            raise ReportError(f"{place}: needs {expected}, got {row!r:.60}")
        for key in ("score", "low", "high", "p", "p_holm"):
            if row.get(key) is not None and not is_number(row[key]):
                raise ReportError(f"{place}: {key} must be a finite number or absent, got {row[key]!r:.40}")
