"""The rows of the table of methods, a file per family; methods.py makes one table of them.

All share one budget contract, see method.py. Two presets: `normalized`, the default, spends the total exactly, so
that methods can be compared. `official` does what the authors' released code does, rounding leaks included; its note
says which file that is and what differs. Where a released rule cannot be written as a Selection there is no official
preset, and the normalized note says why. `kvpress`, where there is one, is that package's variant of a method.
"""

from cokv.methods.table.evicting import EVICTING
from cokv.methods.table.profiled import PROFILED
from cokv.methods.table.prompt import PROMPT
from cokv.methods.table.stored import STORED

ROWS = (*STORED[:1], *EVICTING, *PROMPT, *PROFILED, *STORED[1:])  # the order that is shown: the full cache first

__all__ = ["ROWS"]
