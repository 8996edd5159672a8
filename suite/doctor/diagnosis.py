"""All checks of a machine, and whether the default experiment can run on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from suite.doctor import attention, experiments, hardware, software, surroundings
from suite.doctor.check import Check, Finding, State, begin, look
from suite.doctor.experiments import Machine

SCHEMA = 1  # of the JSON, raised where a key changes its meaning or goes; keys may be added


@dataclass(frozen=True)
class Diagnosis:
    """default: the experiment that `cokv reproduce` runs when none is named."""

    findings: Mapping[Check, Finding]
    default: str

    @property
    def can_run_default(self) -> bool:
        """Nothing that every run needs is missing, and the default experiment fits."""
        problem = any(finding.state is State.PROBLEM for finding in self.findings.values())
        return not problem and any(
            check.group == "experiments" and check.name == self.default and finding.facts.get("fits") is True
            for check, finding in self.findings.items()
        )

    def as_json(self) -> dict[str, Any]:
        checks = [
            {
                "group": check.group,
                "name": check.name,
                "state": str(finding.state),
                "detail": finding.detail,
                "remedy": finding.remedy,
                "facts": dict(finding.facts),
            }
            for check, finding in self.findings.items()
        ]
        about = {"schema": SCHEMA, "default_experiment": self.default, "can_run_default": self.can_run_default}
        return {**about, "checks": checks}


def diagnose(files: Mapping[str, Path], default: str) -> Diagnosis:
    """Looks at everything. files: the experiments by name."""
    checks = [*software.checks(), *hardware.checks(), *attention.checks(), *surroundings.checks()]
    early = {check: begin(check) for check in checks if check.early}
    findings = {check: early[check]() if check in early else look(check) for check in checks}
    machine = _machine({check.name: finding.facts for check, finding in findings.items()})
    for name in sorted(files, key=lambda name: (name != default, name)):
        check = experiments.check(name, files[name], machine)
        findings[check] = look(check)
    return Diagnosis(findings, default)


def _machine(facts: Mapping[str, Mapping[str, Any]]) -> Machine:
    """Of checks that failed nothing is known."""
    return Machine(
        memory=facts["memory"].get("available_bytes"),
        hub=facts["hub"].get("reachable") is True,
        token=facts["hub token"].get("present") is True,
    )


def lines(diagnosis: Diagnosis) -> Iterator[tuple[str, str]]:
    """Lines to show, each with the state that it tells of. A remedy is a line of its own, to be copied as it is; one
    that several things need stands below the first.
    """
    group, shown_remedies = "", set[str]()
    for check, finding in diagnosis.findings.items():
        shown, group = "" if check.group == group else check.group, check.group
        yield f"{shown:12} {check.name:20} {finding.state:8} {finding.detail}", str(finding.state)
        remedies = finding.remedy.splitlines() if finding.state is not State.OK else []
        for remedy in remedies:
            if remedy not in shown_remedies:
                yield f"{'':12} -> {remedy}", str(State.ABSENT)
        shown_remedies |= {*remedies}
    can = "can run" if diagnosis.can_run_default else "cannot run"
    yield f"{diagnosis.default}, the default experiment, {can} here; `cokv reproduce --dry-run` times it", ""
