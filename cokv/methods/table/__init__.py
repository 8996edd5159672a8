"""The rows of the table of methods, one file per family; registry.py collects them.

All share one budget contract, see method.py. `normalized`, the default preset, spends the total exactly, so that
methods can be compared. `official` does what the authors' released code does, rounding leaks included; its note names
the file and the differences. A released rule that cannot be written as a Selection has no official preset, and the
normalized note says why. `kvpress`, where there is one, is that package's variant of a method.

A row's parameters are the paper's. Those that papers themselves try several values of are the experiment's to set:
`owners` names them. Rows and presets marked `ours` are ablations and combinations of this project's own.
"""

from cokv.methods.table.evicting import EVICTING
from cokv.methods.table.profiled import PROFILED
from cokv.methods.table.prompt import PROMPT
from cokv.methods.table.stored import STORED

ROWS = (*STORED[:1], *EVICTING, *PROMPT, *PROFILED, *STORED[1:])  # the order that is shown: the full cache first

__all__ = ["ROWS"]
