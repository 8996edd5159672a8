"""The arrows of the design: who may import whom, and what loads no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("cokv", "longbench", "ruler", "reports", "suite")
# Inside cokv, from the ground: a module may import those of a lower floor, and its own room.
FLOORS = [
    {"cokv.types"},
    {"cokv.model", "cokv.cluster", "cokv.probes"},
    {"cokv.cache"},
    {"cokv.methods"},
    {"cokv.decode"},
    {"cokv.game", "cokv.profiles"},
    {"cokv.deployment"},
]
PURE = tuple(f"cokv.methods.{name}" for name in ("scorers", "allocators", "method", "registry", "table", "score_cache"))
ENGINE = ("cokv.cache", "cokv.decode", "cokv.model.loading", "transformers")  # what the pure ones know nothing of


def modules() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def imports(name: str, path: Path, typing: bool = True) -> set[str]:
    """All modules that a file imports, wherever it does; of `from a import b`, both a and a.b.

    typing: those imported only for a type checker too.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    skipped = set() if typing else {id(inner) for guard in guards for inner in ast.walk(guard)}
    imported: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
            base = above[: len(above) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            imported |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return imported


IMPORTS = {name: imports(name, path) for name, path in modules()}
RUN_TIME = {name: imports(name, path, typing=False) for name, path in modules()}


def room_of(module: str) -> str:
    return module.partition(".")[0]


def floor_of(module: str) -> int | None:
    for height, floor in enumerate(FLOORS):
        if any(module == room or module.startswith(room + ".") for room in floor):
            return height
    return None


def second(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_the_rooms_are_found() -> None:
    assert {"cokv", "longbench", "ruler", "reports"} <= {room_of(name) for name in IMPORTS}
    assert "cokv.types" in IMPORTS["cokv.decode.decode"], "the reader of imports is blind"


@pytest.mark.parametrize("name", sorted(IMPORTS))
def test_arrows_between_rooms_point_down(name: str) -> None:
    allowed = {room_of(name)} | (set(ROOMS) if room_of(name) == "suite" else set())
    others = {room_of(module) for module in IMPORTS[name]} & {*ROOMS, "tests", "benchmarks"}
    assert others <= allowed, f"{name} imports {sorted(others - allowed)}"


@pytest.mark.parametrize("name", sorted(n for n in IMPORTS if n.startswith("cokv.") and "embedded" not in n))
def test_arrows_inside_cokv_point_down(name: str) -> None:
    height = floor_of(name)
    assert height is not None, f"{name} has no floor; give it one in FLOORS"
    own = second(name)
    for module in RUN_TIME[name]:
        other = floor_of(module)
        if other is not None and second(module) != own:
            assert other < height, f"{name} (floor {height}) imports {module} (floor {other})"


@pytest.mark.parametrize("name", sorted(n for n in IMPORTS if n.startswith(PURE)))
def test_methods_know_no_engine(name: str) -> None:
    policies = "cokv.cache.policies"  # what a rule while decoding must say: no engine
    met = {m for m in RUN_TIME[name] if m.startswith(ENGINE) and not m.startswith(policies)}
    assert not met, f"{name} imports {sorted(met)}"


def test_only_one_file_touches_transformers_private_sides() -> None:
    for name, path in modules():
        if room_of(name) in ("cokv", "suite") and name != "cokv.cache.compat":
            text = path.read_text(encoding="utf-8")
            assert "_global_mapping" not in text and "AttentionInterface.register" not in text, name


def loaded(statement: str) -> set[str]:
    """Top-level modules that are in memory after a statement, in a fresh process."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_data_and_reports_load_no_torch() -> None:
    names = [name for name in IMPORTS if room_of(name) in ("longbench", "ruler", "reports") and "__main__" not in name]
    assert len(names) > 20
    heavy = {"torch", "transformers", "cokv", "suite"}
    assert not loaded("import " + ", ".join(names)) & heavy
    assert "torch" in loaded("import cokv.types.selection"), "the reader of modules is blind"
