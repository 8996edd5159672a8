"""Measurement: time, memory and energy of a section of code; fair timing of several arms; what machine this is.

What cannot be measured on a machine is absent from the result, never 0: without an NVIDIA driver there is no NVML, a
CPU build of torch has no CUDA peaks, and only Linux lets a process reset its peak resident size.

    with measure("cuda:0") as m:
        work()
    m.result  # {"seconds": ..., "rss_peak_bytes": ..., "cuda_peak_bytes": ..., "energy_joules": ...}

    with sampled(["cuda:0", "cuda:1"], interval=0.1) as s:
        work()
    s.result  # {"rss_bytes": {...}, "cuda:0": {"process_bytes": {"mean": ..., "max": ...}, "power_watts": ...}, ...}

measure         one section: seconds, peaks, joules            (sections.py)
sampled         what a thread beside the section saw of it     (sampling.py)
interleaved, ratio_summary, synchronize, Marks                 (timing.py)
machine, versions, resident_bytes, storage_bytes               (surroundings.py)

Importing this loads no torch.
"""

from cokv.probes.process import resident_bytes
from cokv.probes.sampling import Samples, sampled
from cokv.probes.sections import Measurement, Result, measure
from cokv.probes.surroundings import DISTRIBUTIONS, machine, versions
from cokv.probes.timing import Marks, interleaved, ratio_summary, storage_bytes, synchronize

__all__ = [
    "DISTRIBUTIONS",
    "Marks",
    "Measurement",
    "Result",
    "Samples",
    "interleaved",
    "machine",
    "measure",
    "ratio_summary",
    "resident_bytes",
    "sampled",
    "storage_bytes",
    "synchronize",
    "versions",
]
