"""`python -m suite.doctor`: as `cokv doctor`, also where a package that the command line needs is missing."""

from __future__ import annotations

from suite.doctor.diagnosis import diagnose, lines
from suite.experiment_files import DEFAULT, shipped_experiments


def main() -> int:
    diagnosis = diagnose(shipped_experiments(), DEFAULT)
    for line, _ in lines(diagnosis):
        print(ascii(line)[1:-1])
    return 0 if diagnosis.can_run_default else 1


if __name__ == "__main__":
    raise SystemExit(main())
