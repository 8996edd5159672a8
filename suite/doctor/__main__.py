"""`python -m suite.doctor`: as `cokv doctor`, also where a package that the command line needs is missing."""

from __future__ import annotations

from suite.doctor.diagnosis import diagnose, lines
from suite.experiment_files import DEFAULT, shipped_experiments


def main() -> int:
    diagnosis = diagnose(shipped_experiments(), DEFAULT)
    for group, name, state, text in lines(diagnosis):
        print(f"{group:12}{name:18}{state:9}{text}".encode("ascii", "replace").decode())
    return 0 if diagnosis.can_run_default else 1


if __name__ == "__main__":
    raise SystemExit(main())
