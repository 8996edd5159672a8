"""Methods from outside the table: `package.module:Class`, a scorer of one's own, and `kvpress:Press`.

The class is imported from where Python finds it, the current folder last, and nowhere else. It must be a frozen
dataclass that scores as cokv/methods/scorers says, each field with a default; its method keeps the best-scored tokens
with the same budget in every head. `cokv check-method` tries the whole contract.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from cokv.methods.allocators.uniform import Uniform
from cokv.methods.entries import MethodEntry, Preset
from cokv.methods.scorers import Scorer
from cokv.types import CokvError

PARTS = ("window_size", "reserved", "check_budget", "scores")


def is_outside(name: str) -> bool:
    return ":" in name


def outside_entry(name: str) -> MethodEntry:
    """The row of a method that is no row of the table."""
    module_name, _, class_name = name.partition(":")
    if module_name == "kvpress":
        from cokv.methods.kvpress import press_scorer, press_source  # loads transformers, which the table does not

        scorer, source, paper = press_scorer(class_name), press_source(class_name), "-"
        note = "kvpress scores; the cache, the budgets and exact totals are this suite's"
    else:
        found = _load(name)
        scorer, source, paper = _scorer(name, found), _source(found), str(getattr(found, "paper", "-"))
        note = f"from {inspect.getsourcefile(found)}"
    return MethodEntry(
        name=name,
        title=class_name,
        paper=paper,
        code=source,
        policy="grow",
        presets={"normalized": Preset(scorer, Uniform(), note, source)},
    )


def _load(name: str) -> Any:
    """The class that `module:Class` names."""
    module_name, _, class_name = name.partition(":")
    if not class_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise CokvError(f"method {name!r}; expected a name of the table, or package.module:Class")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        lacking = error.name or module_name
        hint = (
            "install it" if lacking.partition(".")[0] != module_name.partition(".")[0] else "run where it can be found"
        )
        raise CokvError(f"method {name!r}: no module {lacking!r} on Python's path or in {Path.cwd()}; {hint}") from None
    except Exception as error:  # any mistake of the user's module
        raise CokvError(f"method {name!r}: importing {module_name} fails with {_said(error)}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        near = difflib.get_close_matches(class_name, classes, n=3, cutoff=0.4) or classes[:5]
        raise CokvError(f"method {name!r}: {module_name} has no class {class_name}; it has {', '.join(near) or 'none'}")
    return found


def _scorer(name: str, kind: Any) -> Scorer:
    settings: Any = getattr(kind, "__dataclass_params__", None)
    if settings is None or not settings.frozen:
        raise CokvError(
            f"method {name!r}: {kind.__name__} is no frozen dataclass; put @dataclass(frozen=True) above it"
        )
    needed = [
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if needed:
        raise CokvError(f"method {name!r}: {needed[0]} of {kind.__name__} has no default; give every field one")
    try:
        made = kind()
        lacking = [part for part in PARTS if not hasattr(made, part)]
        hash(made)
    except Exception as error:  # any mistake of the user's class
        raise CokvError(f"method {name!r}: {kind.__name__}() fails with {_said(error)}") from error
    if lacking:
        raise CokvError(
            f"method {name!r}: {kind.__name__} has no {' and no '.join(lacking)}; a scorer has {', '.join(PARTS)}"
        )
    return made  # type: ignore[no-any-return]


def _source(kind: type) -> str:
    """The file a class comes from, and a digest of what it says: other code, another method."""
    path = inspect.getsourcefile(kind)
    if path is None or not Path(path).is_file():
        return kind.__module__
    return f"{Path(path).name}, sha256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
