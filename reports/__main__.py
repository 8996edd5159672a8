"""`python -m reports RUN_DIR`: write the report of a run, print its table, and its folder last."""

from __future__ import annotations

import argparse
import os

from reports.one_line import exit_code
from reports.report import terminal_table, write_report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m reports", description="Tables and plots of a run folder.")
    parser.add_argument("run_dir", help="a folder such as runs/<name>-<hash>")
    parser.add_argument(
        "--unfinished", action="store_true", help="report on a run that has not ended, as far as it got"
    )
    arguments = parser.parse_args(argv)
    os.environ.pop("MPLBACKEND", None)  # one that is misspelled would keep matplotlib from loading

    def report() -> None:
        folder = write_report(arguments.run_dir, arguments.unfinished)
        terminal_table(arguments.run_dir, allow_unfinished=arguments.unfinished)
        print(folder)

    return exit_code(report)


if __name__ == "__main__":
    raise SystemExit(main())
