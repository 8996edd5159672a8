r"""Tables as LaTeX floats that need booktabs and graphicx, and fit a page of a one-column and a two-column article.

A table that is too wide is set smaller, then cut between groups of columns; one that is too high is cut between blocks
of rows (latex_layout.py). Where another font is wider than was estimated, `\fittable` scales the table down.

Does not know: the class it will stand in. It counts on the text of `article` at 10 points.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from reports.latex_layout import LONGEST, Layout, Panel, column_heads, layout, page_notes
from reports.table import Entry, Table, column_words, escape_latex, latex_units
from reports.text import clip, visible

PREAMBLE = r"\usepackage{booktabs,graphicx}"
TOP = r"\makeatletter\setlength{\@fptop}{0pt}\makeatother"  # pages of tables begin at the top
FITTABLE = (
    r"\providecommand{\fittable}[1]{\sbox0{#1}\ifdim\wd0>\textwidth\resizebox{\textwidth}{!}{\usebox0}"
    r"\else\usebox0\fi}"
)
HEAD = f"% In the preamble: {PREAMBLE}\n{FITTABLE}\n\n"
MARKS = {"†": r"\dagger", "‡": r"\ddagger"}
UNBROKEN = 20  # characters of a word, which may be broken where it is longer and text is wrapped


def to_latex(table: Table) -> str:
    """The floats of a table: one, or as many as its pages, each named as continued."""
    plan = layout(table)
    floats = []
    for number, page in enumerate(plan.pages):
        last = number == len(plan.pages) - 1
        notes = table.notes if last and plan.notes_below else ()
        tabulars = [_tabular(table, plan, panel) for panel in page]
        floats.append(_float(table, plan, number, tabulars, notes))
    if not plan.notes_below:
        pages = list(page_notes(table.notes))
        floats += [_float(table, plan, len(plan.pages), [], notes) for notes in pages]
    return "\n".join(floats)


def document(names: Sequence[str], columns: int = 1) -> str:
    """A document that shows the tables of these files, one after another. columns: 1 or 2."""
    options = "10pt,a4paper" + (",twocolumn" if columns == 2 else "")
    body = [rf"\input{{{name}}}\clearpage" for name in names]
    return "\n".join(
        [rf"\documentclass[{options}]{{article}}", PREAMBLE, TOP, r"\begin{document}", *body, r"\end{document}", ""]
    )


def wrapped_latex(text: str, most: int = UNBROKEN) -> str:
    """Escaped for a paragraph: a word longer than `most` characters may be broken anywhere after half as many."""
    return " ".join(_breakable(word, most) for word in visible(text).split(" "))


def _breakable(word: str, most: int) -> str:
    units = list(latex_units(word))
    if sum(len(shown) for shown, _ in units) <= most:
        return "".join(latex for _, latex in units)
    out, run = [], 0
    for shown, latex in units:
        if run and run + len(shown) > most / 2:
            out.append(r"\allowbreak{}")
            run = 0
        out.append(latex)
        run += len(shown)
    return "".join(out)


def _float(table: Table, plan: Layout, number: int, tabulars: Sequence[str], notes: Sequence[str]) -> str:
    kind = "table*" if plan.wide else "table"
    title = clip(table.title, 300)
    caption = f"{title} (continued)." if number else f"{title}."
    label = re.sub(r"[^A-Za-z0-9]+", "-", table.name)
    lines = [rf"\begin{{{kind}}}[tp]", r"\centering"]
    lines += [r"\addtocounter{table}{-1}"] if number else []
    lines += [rf"\caption{{{wrapped_latex(caption)}}}"]
    lines += [] if number else [rf"\label{{tab:{label}}}"]
    lines.append(r"\vspace{4pt}")
    for place, tabular in enumerate(tabulars):
        lines += [r"\par\vspace{8pt}"] * (place > 0) + [tabular]
    if notes:
        body = r"\par ".join(wrapped_latex(note) for note in notes)
        width = r"\textwidth" if plan.wide else r"\columnwidth"
        lines.append(
            rf"\par\vspace{{4pt}}\parbox{{{width}}}{{\fontsize{{7}}{{8.2}}\selectfont\raggedright\parindent0pt "
            rf"{body}\par}}"
        )
    return "\n".join([*lines, rf"\end{{{kind}}}", ""])


def _tabular(table: Table, plan: Layout, panel: Panel) -> str:
    across = len(panel.columns)
    lines = [*_heads(table, panel), " & ".join(_column(table, plan, p) for p in panel.columns) + r" \\", r"\midrule"]
    titles = dict(table.blocks)
    first = panel.rows[0]
    begun = next((text for row, text in reversed(table.blocks) if row <= first), None)
    for row in panel.rows:
        title = titles.get(row) or (f"{begun} (continued)" if begun and row == first else None)
        if title:
            lines += [r"\midrule"] if row != first else []
            lines += [rf"\multicolumn{{{across}}}{{c}}{{\textit{{{escape_latex(clip(title, 90))}}}}} \\", r"\midrule"]
        elif row in table.rules and row != first:
            lines.append(r"\midrule")
        elif row in table.gaps and row != first:
            lines.append(r"\addlinespace[2pt]")
        cells = [_entry(table, plan, table.rows[row][place], place) for place in panel.columns]
        lines.append(" & ".join(cells) + r" \\")
    spec = "".join("l" if place < table.left or place in plan.wrapped else "r" for place in panel.columns)
    size = rf"\fontsize{{{plan.size:g}}}{{{1.15 * plan.size:.1f}}}\selectfont"
    room = rf"\setlength{{\tabcolsep}}{{{plan.room:g}pt}}%"
    return "\n".join(
        [
            f"{{{size}{room}",
            rf"\fittable{{\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
            r"\toprule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}}",
        ]
    )


def _heads(table: Table, panel: Panel) -> Iterator[str]:
    """The row of titles over groups of columns, and the rules under them."""
    if not table.heads:
        return
    cells: list[tuple[int, str]] = []
    rules, start = [], 0
    for title, count in table.heads:
        shown = [place for place in panel.columns if start <= place < start + count]
        start += count
        if not shown:
            continue
        at = sum(number for number, _ in cells) + 1
        cells.append((len(shown), title))
        if title:
            rules.append(rf"\cmidrule(lr){{{at}-{at + len(shown) - 1}}}")
    yield (
        " & ".join(
            rf"\multicolumn{{{count}}}{{c}}{{{_stack(title.split(' ')) if count < 3 else escape_latex(title)}}}"
            for count, title in cells
        )
        + r" \\"
    )
    yield "".join(rules)


def _stack(words: Sequence[str]) -> str:
    parts = [escape_latex(word) for word in words]
    return r"\shortstack{" + r"\\".join(parts) + "}" if len(parts) > 1 else "".join(parts)


def _column(table: Table, plan: Layout, place: int) -> str:
    name = column_heads(table)[place]
    if place in plan.rotated:
        return rf"\rotatebox[origin=c]{{60}}{{{escape_latex(name)}}}"
    if place in plan.wrapped:
        return rf"\parbox[b]{{{plan.wrapped[place]:.0f}pt}}{{\raggedright {wrapped_latex(name)}\strut}}"
    return _stack(column_words(name)) if place >= table.left else escape_latex(name)


def _entry(table: Table, plan: Layout, item: Entry, place: int) -> str:
    shown = item.detail if table.details == "shown" else ""
    if place in plan.wrapped:
        most = int(plan.wrapped[place] / (0.7 * plan.size))
        text = wrapped_latex(clip(f"{item.text} {shown}".strip(), LONGEST), min(most, UNBROKEN))
        text = rf"\textbf{{{text}}}" if item.bold else text
        return rf"\parbox[t]{{{plan.wrapped[place]:.0f}pt}}{{\raggedright {text}\strut}}"
    text = escape_latex(clip(item.text, LONGEST))
    text = rf"\underline{{{text}}}" if item.underline else text
    text = rf"\textbf{{{text}}}" if item.bold else text
    marks = "".join(MARKS.get(mark, escape_latex(mark)) for mark in item.mark)
    text += rf"\rlap{{$^{{{marks}}}$}}" if marks else ""
    detail = escape_latex(clip(shown, LONGEST))
    if not detail:
        return text
    if place < table.left:
        return f"{text} {detail}"
    return rf"\shortstack{{{text}\\{{\fontsize{{5}}{{5}}\selectfont {detail}}}}}"
