"""Records of a run -> tables (Markdown, LaTeX, terminal), plots and one report folder.

Knows records (plain dictionaries), never models: nothing here imports torch, the compression core or the benchmarks.
"""

from reports.aggregate import aggregate
from reports.errors import ReportError
from reports.report import terminal_table, write_report
from reports.rundir import load_run

__all__ = ["ReportError", "aggregate", "load_run", "terminal_table", "write_report"]
