"""Copies what readers want of a finished run into a results folder: its report, its numbers, its answers.

    python benchmarks/publish.py runs/smollm2-1a2b3c4d benchmarks/results/smollm2-135m [--page]

Left in the run: each table as LaTeX, CSV and Parquet, pictures as PDF, profiles, prompts; `cokv report RUN` makes the
tables and pictures again. report.md is copied without links to what is left.
"""

from __future__ import annotations

import argparse
import re
import shutil
from pathlib import Path

from reports.golden import write_answers
from reports.rundir import load_run

NUMBERS = ("metrics.json", "spec.json", "stability.json", "measurements.json", "checks.json", "stages.jsonl")
NUMBERS += ("longbench.json", "masking.json", "transfer.json")
LINK = re.compile(r"(?:, as )?\[[^]]*\]\(([^)#]+)\)(?:, (?=\[))?")


def publish(run: Path, folder: Path, page: bool) -> None:
    report = run / "report"
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.png"), *(folder / "tables").glob("*")):
        if (report / old.relative_to(folder)).exists() or old.parent.name == "tables":
            old.unlink()
    names = ["claims.json", *(path.name for path in report.glob("*.png")), *(["page.html"] if page else [])]
    for name in names:
        shutil.copyfile(report / name, folder / name)
    for table in (report / "tables").glob("*.md"):
        shutil.copyfile(table, folder / "tables" / table.name)
    for name in NUMBERS:
        if (run / name).exists():
            shutil.copyfile(run / name, folder / name)
    write_answers(load_run(run, allow_unfinished=True).records, folder)
    text = (report / "report.md").read_text(encoding="utf-8")
    (folder / "report.md").write_text(with_existing_links(text, folder), encoding="utf-8")


def with_existing_links(text: str, folder: Path) -> str:
    """Links to files that the folder does not hold are taken out, with the words that join them, and a line that has
    nothing else.
    """

    def kept(match: re.Match[str]) -> str:
        return match[0] if (folder / match[1]).exists() else ""

    lines = (LINK.sub(kept, line) for line in text.splitlines(keepends=True))
    return "".join(line for line in lines if not line.endswith(": .\n"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--page", action="store_true", help="also the page, which is some megabytes")
    arguments = parser.parse_args()
    publish(arguments.run, arguments.folder, arguments.page)
