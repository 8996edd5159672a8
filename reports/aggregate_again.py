"""`python -m reports.aggregate_again RUN_DIR...`: metrics.json anew from a run's predictions.jsonl, without a model.

For a run that an older version of this project aggregated. Nothing else of the run folder is touched.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from reports.aggregate import aggregate
from reports.errors import ReportError
from reports.one_line import exit_code
from reports.rundir import read_records


def aggregate_again(run_dir: str | Path) -> Path:
    """The path of the new metrics.json, which replaces the old one whole. A torn last line is refused."""
    path = Path(run_dir)
    if not path.is_dir():
        raise ReportError(f"no run folder at {str(path)!r}; expected a folder such as runs/<name>-<hash>")
    metrics = aggregate(read_records(path / "predictions.jsonl", torn_ok=False))
    target, part = path / "metrics.json", path / ".metrics.json.part"
    text = json.dumps(metrics, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, target)
    return target


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m reports.aggregate_again", description="Aggregate a run's records again into its metrics.json."
    )
    parser.add_argument("run_dir", nargs="+", help="a folder such as runs/<name>-<hash>")
    folders = parser.parse_args(argv).run_dir

    def aggregate_all() -> None:
        for run_dir in folders:
            print(aggregate_again(run_dir))

    return exit_code(aggregate_all)


if __name__ == "__main__":
    raise SystemExit(main())
