"""Plugin methods, which are not in the registry: `package.module:Class`, the user's own scorer, and `kvpress:Press`.

The class is imported from Python's path, then from the current folder. It must be a frozen dataclass with the interface
of cokv/methods/scorers and a default for every field; its method keeps the best-scored tokens with the same budget in
every head. `cokv check-method` checks the whole contract.
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
from cokv.methods.method import Method
from cokv.methods.scorers import Scorer
from cokv.types import CokvError

PARTS = ("window_size", "reserved", "check_budget", "scores")


def is_plugin(name: str) -> bool:
    return ":" in name


def plugin_method(name: str) -> Method:
    """The method of a plugin scorer, with uniform budgets."""
    module_name, _, class_name = name.partition(":")
    if module_name == "kvpress":
        from cokv.methods.kvpress import press_scorer, press_source  # loads transformers, which the registry does not

        scorer, source, paper = press_scorer(class_name), press_source(class_name), "-"
        note = "kvpress scores; the cache, the budgets and exact totals are this suite's"
    else:
        scorer_class = _load(name)
        scorer, source = _scorer(name, scorer_class), _source(scorer_class)
        paper, note = str(getattr(scorer_class, "paper", "-")), f"from {inspect.getsourcefile(scorer_class)}"
    method = Method(name, class_name, scorer, Uniform(), note=note, paper=paper, code=source, source=source)
    return dataclasses.replace(method, owners=dict.fromkeys(method.parameters, "experiment"))


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
        missing = error.name or module_name
        is_dependency = missing.partition(".")[0] != module_name.partition(".")[0]
        hint = "install it" if is_dependency else "run in the folder that contains it"
        raise CokvError(f"method {name!r}: no module {missing!r} on Python's path or in {Path.cwd()}; {hint}") from None
    except Exception as error:  # any error of the user's module
        raise CokvError(f"method {name!r}: importing {module_name} fails with {_in_one_line(error)}") from error
    loaded = getattr(module, class_name, None)
    if not isinstance(loaded, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        near = difflib.get_close_matches(class_name, classes, n=3, cutoff=0.4) or classes[:5]
        raise CokvError(f"method {name!r}: {module_name} has no class {class_name}; it has {', '.join(near) or 'none'}")
    return loaded


def _scorer(name: str, kind: Any) -> Scorer:
    settings: Any = getattr(kind, "__dataclass_params__", None)
    if settings is None or not settings.frozen:
        raise CokvError(
            f"method {name!r}: {kind.__name__} is no frozen dataclass; put @dataclass(frozen=True) above it"
        )
    without_default = [
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if without_default:
        raise CokvError(
            f"method {name!r}: {without_default[0]} of {kind.__name__} has no default; give every field one"
        )
    try:
        scorer = kind()
        missing = [part for part in PARTS if not hasattr(scorer, part)]
        hash(scorer)
    except Exception as error:  # any error of the user's class
        raise CokvError(f"method {name!r}: {kind.__name__}() fails with {_in_one_line(error)}") from error
    if missing:
        raise CokvError(
            f"method {name!r}: {kind.__name__} has no {' and no '.join(missing)}; a scorer has {', '.join(PARTS)}"
        )
    return scorer  # type: ignore[no-any-return]


def _source(kind: type) -> str:
    """The file that defines a class, and a digest of its content: a method with other code is another method."""
    path = inspect.getsourcefile(kind)
    if path is None or not Path(path).is_file():
        return kind.__module__
    return f"{Path(path).name}, sha256 {hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}"


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
