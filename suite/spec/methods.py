"""The methods of an experiment with their parameters, and the file's defaults for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

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
    """Refuses a default that is no parameter of any method."""
    if not isinstance(defaults, dict):
        raise SuiteError(f"{path}: key `method_defaults`: expected a table of parameters, got {defaults!r}")
    known = sorted({name for entry in METHODS.values() for name in entry.parameters})
    for name in defaults:
        if name not in known:
            raise SuiteError(f"{path}: unknown key `method_defaults.{name}`; {nearest(name, known)}")


def with_defaults(method: Any, defaults: dict[str, Any]) -> Any:
    """A method entry (a name, or a table) with the file's defaults filled in.

    Defaults apply to the `normalized` preset of methods with such a parameter; other presets stay as released.
    """
    if isinstance(method, str):
        method = {"name": method}
    if not isinstance(method, dict) or method.get("preset", "normalized") != "normalized":
        return method
    name, params = method.get("name"), method.get("params", {})
    if not isinstance(name, str) or not isinstance(params, dict):
        return method  # validation refuses it and names the key
    try:
        known = get_method(name).parameters
    except CokvError:
        return method  # validation refuses it too
    return {**method, "params": {**{k: v for k, v in defaults.items() if k in known}, **params}}
