"""The installation: Python, the packages that this one needs in the versions it needs, and its optional extras."""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from suite.doctor.check import Check, Finding, State

PACKAGE = "cokv"
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
PINNED = {"torch": "2.13.0", "transformers": "5.23.0"}  # which the tests run with, as constraints.txt says
EXTRAS = {  # what each adds
    "gguf": "known models (smollm2-135m, ...) and .gguf files",
    "flash": "flash attention over prompts on CUDA, and over what is kept of them",
    "flashinfer": "FlashInfer's attention over what is kept, on CUDA",
    "ray": "runs on a Ray cluster",
    "kvpress": "presses of kvpress as methods, in an environment with an older transformers",
    "lm-eval": "tasks of lm-evaluation-harness",
}


def checks() -> list[Check]:
    named = [Check("software", name, lambda name=name: library(name)) for name in PINNED]  # type: ignore[misc]
    extras = [Check("extras", name, lambda name=name: extra(name)) for name in EXTRAS]  # type: ignore[misc]
    return [Check("software", "python", python), *named, Check("software", "packages", packages), *extras]


def python() -> Finding:
    least = about()["requires-python"]
    version = platform.python_version()
    if not _fits(version, least):
        return Finding(State.PROBLEM, f"{version}, needs {least}", f"use a Python {least}", {"version": version})
    return Finding(State.OK, f"{version} (needs {least})", facts={"version": version, "platform": sys.platform})


def library(name: str) -> Finding:
    """torch or transformers: in range, and it can be imported."""
    wanted = next(r for r in requirements() if r.name == name)
    pip = f"python -m pip install --upgrade '{wanted.name}{wanted.specifier}'"
    version = _installed(name)
    if version is None:
        return Finding(State.PROBLEM, f"not installed, needs {wanted.specifier}", pip)
    facts: dict[str, Any] = {"version": version, "needs": str(wanted.specifier), "tested": PINNED[name]}
    if not _fits(version, str(wanted.specifier)):
        return Finding(State.PROBLEM, f"{version}, needs {wanted.specifier}", pip, facts)
    try:
        module = importlib.import_module(name)
    except Exception as error:  # shared libraries that do not fit, a half-removed package
        reason = " ".join(str(error).split())[:160]
        broken = f"{version} cannot be imported ({type(error).__name__}: {reason})"
        return Finding(State.PROBLEM, broken, pip.replace("--upgrade", "--force-reinstall"), facts)
    if name == "torch":
        facts["cuda"] = module.version.cuda
    built = "" if name != "torch" else f", built for CUDA {facts['cuda']}" if facts["cuda"] else ", built for CPUs"
    return Finding(State.OK, f"{version}{built} (needs {wanted.specifier}, tested with {PINNED[name]})", facts=facts)


def packages() -> Finding:
    """All other packages that this one depends on."""
    wrong, wanted = {}, [r for r in requirements() if r.name not in PINNED]
    for requirement in wanted:
        version = _installed(requirement.name)
        if version is None:
            wrong[str(requirement)] = "not installed"
        elif not _fits(version, str(requirement.specifier)):
            wrong[str(requirement)] = version
    if wrong:
        detail = ", ".join(f"{need}: {got}" for need, got in wrong.items())
        names = " ".join(f"'{need}'" for need in wrong)
        return Finding(State.PROBLEM, detail, f"python -m pip install --upgrade {names}", {"wrong": wrong})
    return Finding(State.OK, f"{len(wanted)} more are installed, in the versions needed", facts={"wrong": {}})


def extra(name: str) -> Finding:
    """An optional extra of this package."""
    missing = [str(need) for need in requirements(name) if not _present(need)]
    facts = {"missing": missing, "adds": EXTRAS[name]}
    if not missing:
        return Finding(State.OK, EXTRAS[name], facts=facts)
    detail = f"{', '.join(missing)} for {EXTRAS[name]}"
    return Finding(State.ABSENT, detail, f"python -m pip install 'cokv[{name}]'", facts)


def has_extra(name: str) -> bool:
    return all(_present(need) for need in requirements(name))


def about() -> dict[str, Any]:
    """`requires-python`, `dependencies` and `optional-dependencies`: of the checkout, else of the installed package."""
    if PYPROJECT.is_file():
        project: dict[str, Any] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
        return project
    stated = metadata.metadata(PACKAGE)
    needs = metadata.requires(PACKAGE) or []
    extras = {name: [need for need in needs if f'extra == "{name}"' in need] for name in EXTRAS}
    return {
        "requires-python": stated["Requires-Python"],
        "dependencies": [need for need in needs if "extra ==" not in need],
        "optional-dependencies": extras,
    }


def requirements(extra: str | None = None) -> Iterator[Any]:
    """As `packaging` reads them."""
    from packaging.requirements import Requirement

    project = about()
    for need in project["dependencies"] if extra is None else project["optional-dependencies"][extra]:
        yield Requirement(need)


def _present(requirement: Any) -> bool:
    version = _installed(requirement.name)
    return version is not None and _fits(version, str(requirement.specifier))


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _fits(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)
