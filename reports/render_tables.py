"""`python -m reports.render_tables RUN OUT`: a run's tables as pages, by pdflatex. OUT ends in .pdf, or in .png for
one page. Takes the LaTeX files of the run's report, so that what is seen is what a paper would include.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from reports.errors import ReportError
from reports.latex import document
from reports.one_line import exit_code
from reports.section import FOLDER

INSTALL = "on Debian: apt-get install texlive-latex-base texlive-latex-recommended poppler-utils"
MARGIN = 20  # pixels
SECONDS = 120  # for a document, after which TeX is stopped


def render(run_dir: str | Path, out: str | Path, names: Sequence[str] = (), columns: int = 2, page: int = 1) -> Path:
    """Compile the tables of `names`, or all, and write `out`; page: which one, of a picture."""
    source, target = Path(run_dir) / "report" / FOLDER, Path(out)
    if target.suffix not in (".pdf", ".png"):
        raise ReportError(f"the output is {target.name!r}, expected a name that ends in .pdf or .png")
    if not source.is_dir():
        raise ReportError(f"no tables at {source.as_posix()!r}; run `cokv report {Path(run_dir).as_posix()}` first")
    there = sorted(path.stem for path in source.glob("*.tex") if path.stem != "tables")
    unknown = [name for name in names if name not in there]
    if unknown:
        raise ReportError(f"no table {unknown[0]!r} in the report, expected among {', '.join(there)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(source, Path(temporary) / FOLDER))
        text = document(names or there, columns)
        if target.suffix == ".png":
            text = text.replace(r"\begin{document}", r"\pagestyle{empty}\begin{document}")
        rendered = compile_latex(folder, text)
        if target.suffix == ".png":
            _run(["pdftoppm", "-r", "130", "-png", "-singlefile", "-f", str(page), rendered.name, "page"], folder)
            rendered = folder / "page.png"
            if not rendered.is_file():
                raise ReportError(f"the tables have no page {page}; name an earlier one with --page")
            _trim(rendered)
        shutil.copyfile(rendered, target)
    return target


def compile_latex(folder: Path, text: str) -> Path:
    """The PDF of a document that may include files of `folder`; beside it pages.log."""
    (folder / "pages.tex").write_text(text, encoding="utf-8")
    _run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "pages.tex"], folder)
    return folder / "pages.pdf"


def _run(command: Sequence[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise ReportError(f"{command[0]} is not installed; {INSTALL}")
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=SECONDS, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise ReportError(f"{command[0]} did not end within {SECONDS} s; name fewer tables") from None
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        problem = next((line for line in lines if line.startswith("!")), f"exit status {done.returncode}")
        raise ReportError(f"{command[0]} failed: {problem}")


def _trim(picture: Path) -> None:
    """Cut off the white around a page, but for a margin."""
    from PIL import Image, ImageOps  # matplotlib brings it

    page = Image.open(picture).convert("RGB")
    left, top, right, bottom = ImageOps.invert(page).getbbox() or (0, 0, *page.size)
    page.crop((left - MARGIN, top - MARGIN, right + MARGIN, bottom + MARGIN)).save(picture)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reports.render_tables", description="A run's tables as pages.")
    parser.add_argument("run_dir", help="a run folder that has its report")
    parser.add_argument("out", help="the file to write: .pdf, or .png for one page")
    parser.add_argument("--table", action="append", default=[], help="only this table; may be repeated")
    parser.add_argument("--columns", type=int, choices=(1, 2), default=2, help="of the page: 1 or 2 (default)")
    parser.add_argument("--page", type=int, default=1, help="which page a .png shows (default: the first)")
    asked = parser.parse_args(argv)
    return exit_code(lambda: print(render(asked.run_dir, asked.out, asked.table, asked.columns, asked.page)))


if __name__ == "__main__":
    raise SystemExit(main())
