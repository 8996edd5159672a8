"""Published profiles side by side: tables, heat maps and a page, from the record that describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from reports.errors import ReportError
from reports.heatmap import heads_figure, matrix_figure
from reports.kv_budget import budget_words
from reports.style import save
from reports.table import Entry, Table, escape_markdown, to_markdown

Record = Mapping[str, Any]


def check_profiles(record: Record) -> None:
    if record.get("kind") != "published profiles" or not isinstance(record.get("profiles"), list):
        raise ReportError(f"a record of kind {record.get('kind')!r}, expected 'published profiles' with its profiles")
    if not record["profiles"]:
        raise ReportError("the record holds no profile, expected at least one")


def files_table(record: Record) -> Table | None:
    """What each file of sums and counts holds, by its own counts."""
    if not record["files"]:
        return None
    body = []
    for file in record["files"]:
        stated = "" if file["stated_size"] in (None, file["size"]) else f"(name says {file['stated_size']})"
        body.append(
            (
                Entry(file["file"]),
                Entry(str(file["players"])),
                Entry(str(file["size"]), stated),
                Entry(str(file["samples"])),
                *(Entry(_signed(file[key])) for key in ("min", "mean", "max")),
                Entry(file["content"][:10]),
            )
        )
    notes = record["remarks"] or ["No file is a copy of another, and every size is the one in the name."]
    columns = ("File", "Heads", "Size", "Coalitions", "Min", "Mean", "Max", "Content")
    return Table("profile_files", "Mean contributions of the members, per file", columns, tuple(body), tuple(notes))


def profiles_table(record: Record) -> Table:
    """One row per profile: its scores' range."""
    body = [
        (
            Entry(profile["name"]),
            Entry(profile["method"]),
            Entry(f"{profile['num_layers']} x {profile['num_kv_heads']}"),
            *(Entry(_signed(profile[key])) for key in ("min", "mean", "max")),
        )
        for profile in record["profiles"]
    ]
    columns = ("Profile", "Method", "Heads", "Min", "Mean", "Max")
    notes = ("Heads: layers x KV heads. Scores of different methods have different units; only their order compares.",)
    return Table("profiles", "Head scores", columns, tuple(body), notes, left=2)


def budgets_table(record: Record) -> Table | None:
    """Budgets of both formulas: what they spend, and on how many heads nothing beyond the window."""
    body, notes = [], []
    for profile in record["profiles"]:
        for budgets in profile.get("budgets") or []:
            lost = budgets["expected_total"] - budgets["total"]
            heads = profile["num_layers"] * profile["num_kv_heads"]
            body.append(
                (
                    Entry(profile["name"]),
                    Entry(f"{profile['method']} {budgets['preset']}"),
                    Entry(f"{budgets['total']:,}"),
                    Entry(f"{lost:,}"),
                    Entry(str(budgets["min"])),
                    Entry(f"{budgets['total'] / heads:.2f}"),
                    Entry(str(budgets["max"])),
                    Entry(f"{budgets['window_only']} of {heads}"),
                )
            )
        if "infeasible" in profile:
            notes.append(f"{profile['name']}: {profile['infeasible']}.")
    if not body:
        return None
    notes.insert(
        0,
        f"{budget_words(record)}, window of {record['window_size']} included, prompt of "
        f"{record['prompt_tokens']:,} tokens. Lost: slots of the total that rounding leaves unspent. "
        "Window only: heads that get nothing beyond it.",
    )
    columns = ("Profile", "Formula", "Slots", "Lost", "Least", "Mean", "Most", "Window only")
    return Table("profile_budgets", "Budgets", columns, tuple(body), tuple(notes), left=2)


def masks_table(record: Record) -> Table | None:
    """Two-class profiles: how many heads keep everything, and what that costs."""
    body = [
        (
            Entry(profile["name"]),
            Entry(f"{mask['sparsity']:.0%}"),
            Entry(f"{mask['retrieval_heads']} of {profile['num_layers'] * profile['num_kv_heads']}"),
            Entry(f"{mask['kv_budget']:,.0f}"),
        )
        for profile in record["profiles"]
        for mask in profile.get("masks") or []
    ]
    if not body:
        return None
    note = f"Slots per head at a prompt of {record['prompt_tokens']:,} tokens: all of it, or sink and recent tokens."
    columns = ("Profile", "Streaming heads", "Retrieval heads", "Mean slots")
    return Table("profile_masks", "Retrieval heads by gate quantile", columns, tuple(body), (note,))


def agreement_table(name: str, title: str, agreement: Record) -> Table | None:
    """Spearman over heads of every pair, Pearson beside it."""
    names = agreement["names"]
    if len(names) < 2:
        return None
    body = []
    for row, one in enumerate(names):
        cells = []
        for column in range(len(names)):
            spearman, pearson = agreement["spearman"][row][column], agreement["pearson"][row][column]
            missing = column == row or spearman is None
            cells.append(Entry() if missing else Entry(_signed(spearman, 2), f"({_signed(pearson, 2)})"))
        body.append((Entry(one), *cells))
    notes = ("Spearman, in brackets Pearson, over heads; a dash where the heads are not the same ones.",)
    return Table(name, title, ("", *names), tuple(body), notes)


def profile_tables(record: Record) -> list[Table]:
    check_profiles(record)
    tables = [files_table(record), profiles_table(record), budgets_table(record), masks_table(record)]
    for place, profile in enumerate(record["profiles"]):
        if profile.get("between_sizes"):
            title = f"{profile['name']}: agreement between coalition sizes"
            tables.append(agreement_table(f"profile_sizes_{place}", title, profile["between_sizes"]))
    tables.append(agreement_table("profile_agreement", "Agreement between profiles", record["between_profiles"]))
    return [table for table in tables if table is not None]


def profile_figures(record: Record) -> dict[str, Figure]:
    """Figures by file stem."""
    profiles = record["profiles"]
    figures = {"profile_scores": heads_figure({p["name"]: np.array(p["values"]) for p in profiles}, "score")}
    budgets = {
        f"{p['name']}, {budget['preset']}": np.array(budget["values"], dtype=np.float64)
        for p in profiles
        for budget in p.get("budgets") or []
    }
    if budgets:
        figures["profile_budgets"] = heads_figure(budgets, "KV slots")
    for place, profile in enumerate(profiles):
        agreement = profile.get("between_sizes")
        if agreement and len(agreement["names"]) > 1:
            title = f"{profile['name']}: Spearman between sizes"
            names = agreement["names"]
            figures[f"profile_sizes_{place}"] = matrix_figure(agreement["spearman"], names, names, title)
    agreement = record["between_profiles"]
    if len(agreement["names"]) > 1:
        title, names = "Spearman between profiles", agreement["names"]
        figures["profile_agreement"] = matrix_figure(agreement["spearman"], names, names, title)
    return figures


def write_profiles(record: Record, folder: Path) -> Path:
    """profiles.md, its figures (PNG, SVG) and the record itself (profiles.json), in `folder`. Returns the page."""
    tables, figures = profile_tables(record), profile_figures(record)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stem, figure in figures.items():
            save(figure, folder, stem, "svg")
        parts = ["# Published head profiles\n", *(to_markdown(table) for table in tables)]
        parts += [f"![{escape_markdown(stem.replace('_', ' '))}]({stem}.png)\n" for stem in figures]
        page = folder / "profiles.md"
        page.write_text("\n".join(parts), encoding="utf-8")
        (folder / "profiles.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ReportError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None
    return page


def _signed(value: float, digits: int = 4) -> str:
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
