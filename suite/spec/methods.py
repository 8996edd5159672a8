"""The methods of an experiment with their parameters, and the file's defaults for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from cokv.methods.method import NORMALIZED, RELEASED
from cokv.methods.registry import METHODS, get_method
from cokv.types import CokvError
from suite.errors import SuiteError
from suite.spec.part import Part, nearest


class MethodSpec(Part):
    """A row of the method table; `params` override its hyper-parameters."""

    name: str
    preset: str = "normalized"
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> MethodSpec:
        if reserved := sorted({"name", "preset"} & set(self.params)):
            raise ValueError(f"`{reserved[0]}` is no parameter; write it beside `params`, not inside")
        try:
            get_method(self.name, self.preset, **self.params)
        except CokvError as error:
            raise ValueError(str(error)) from None
        return self


def check_defaults(path: Path, defaults: Any) -> None:
    """Refuses a default that no method leaves to the experiment."""
    if not isinstance(defaults, dict):
        raise SuiteError(f"{path}: key `method_defaults`: expected a table of parameters, got {defaults!r}")
    swept = sorted({name for row in METHODS.values() for name in row.parameters if row.owner(name) == "experiment"})
    for name in defaults:
        if name in swept:
            continue
        fixed = [row.name for row in METHODS.values() if name in row.parameters]
        if fixed:
            raise SuiteError(
                f"{path}: key `method_defaults.{name}`: the papers of {', '.join(fixed)} fix it; set it in a method's "
                f"`params`, which makes a variant that tables name. A default may be one of {', '.join(swept)}"
            )
        raise SuiteError(f"{path}: unknown key `method_defaults.{name}`; {nearest(name, swept)}")


def with_defaults(method: Any, defaults: dict[str, Any]) -> Any:
    """A method entry (a name, or a table) with the file's defaults filled in.

    Defaults apply where papers leave a parameter to the experiment, except in presets that run as released, and to what
    a preset is about.
    """
    if isinstance(method, str):
        method = {"name": method}
    if not isinstance(method, dict) or method.get("preset", NORMALIZED) in RELEASED:
        return method
    name, preset, params = method.get("name"), method.get("preset", NORMALIZED), method.get("params", {})
    if not isinstance(name, str) or not isinstance(preset, str) or not isinstance(params, dict):
        return method  # validation refuses it and names the key
    try:
        row, chosen = get_method(name), get_method(name, preset)
    except CokvError:
        return method  # validation refuses it too
    own = {
        key: value
        for key, value in defaults.items()
        if key in chosen.parameters
        and chosen.owner(key) == "experiment"
        and chosen.parameters[key] == row.parameters.get(key)
    }
    return {**method, "params": {**own, **params}}
