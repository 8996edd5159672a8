"""Every command of README.md, CONTRIBUTING.md and docs/ runs, on small files in place of the user's.

What cannot run here is listed with the reason, and read by the same parser as if it ran: a command or an option that
does not exist fails in both.
"""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
from command_line import call
from documented import ROOT, blocks, commands_of, documented_commands, every_form, forms, inline_commands
from typer.exceptions import TyperException

from suite.cli.main import app

# The smallest experiment with every stage, on the model that ships.
SMALL = """
name = "small"
methods = ["full", "snapkv", "cokv"]
kv_budgets = [32, "20%"]

[method_defaults]
window_size = 8

[ruler]
preset = "mini"
length = 256
samples = 2
tasks = ["niah_multikey_1", "vt"]

[game]
prompts = 4
slice_sizes = [4, 8]
coalitions_per_size = 24
removal_samples = 1

[measure]
kv_budget = 32
prompt_tokens = 64
new_tokens = 4
repeats = 2
"""

# Words in capitals, and names of files that a page makes up.
STAND_INS = {
    "RUN": "runs/small",
    "FILE": "profile.safetensors",
    "F": "prompt.txt",
    "DIR": "out",
    "N": "1",
    "T": "vt",
    "NAME": "embedded",
    "REVISION": "0" * 40,
    "LEDGER": "game.sqlite",
    "A.sqlite": "game.sqlite",
    "B.sqlite": "game.sqlite",
}


@dataclass(frozen=True)
class Rule:
    """How commands that begin so are run here: other stand-ins, and options added that make them short."""

    stand_ins: dict[str, str] = field(default_factory=dict)
    added: str = ""


SHORT = "--experiment small.toml --limit 1 --workers 1"
RULES = {
    "cokv reproduce": Rule({"FILE": "small.toml", "qasper": "vt"}, SHORT),
    "cokv profile ssv": Rule({"FILE": "small.toml"}, "--experiment small.toml --max-evaluations 8 --workers 1"),
    "cokv reproduce --experiment cokv-llama3-8b --dry-run": Rule(),
    "cokv heads": Rule(added="--experiment small.toml --samples 1"),
    "cokv export": Rule({"FILE.parquet": "out/all.parquet"}),
    "cokv eval": Rule({"FILE": "pred/vt.jsonl"}),
    "cokv profile compare": Rule({"FILE...": "published.json"}),
}

# Texts of commands, or of their optional parts, that cannot run here.
ONLY_READ = {
    "cokv model fetch": "downloads a model",
    "cokv lm-eval": "lm-eval is installed in an environment of its own, where tests/suite/test_lm_eval.py runs it",
    "--revision": "reads the hub",
    "--device cuda": "needs a GPU",
    "--ray": "starts a cluster, which tests/test_cluster.py does",
    "--chat": "the model that ships has no chat template",
    "python -m suite.embedded.train": "trains for minutes, which tests/suite/embedded/test_train.py does for seconds",
    "python -m suite.embedded.evaluate": "judges 34 tasks on 50 samples each",
    "python -m pip": "installs packages",
    "pip install": "installs packages",
    "python benchmarks/": "measures for minutes",
    "python -m reports.golden": "needs a run of the embedded experiment, 15 minutes",
    "python -m reports.render_tables": "needs TeX; where it is, tests/reports/test_latex_pages.py renders",
    "bash benchmarks/gpu.sh": "needs a GPU",
    "tox": "builds environments",
}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to type commands in: a finished run, its profile and ledger, and the files that the pages name."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("experiments", "benchmarks", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "small.toml").write_text(SMALL, encoding="utf-8")
    (folder / "prompt.txt").write_text("The road was long. The secret number of lantern is 1787679. " * 4)
    (folder / "published.json").write_text(json.dumps({f"{i // 4}-{i % 4}": [i / 8] for i in range(8)}))
    (folder / "out").mkdir()
    for block in blocks("python"):
        if "class Nearby" in block.text:
            (folder / "mymethods.py").write_text(block.text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        patch.setattr("suite.run.workers.MAX_DEFAULT_WORKERS", 1)
        done = call("reproduce", *SHORT.split())
        assert done.exit_code == 0, done.output
        (run,) = (folder / "runs").glob("small-*")
        shutil.copytree(run, folder / "runs" / "small")
        shutil.copy(run / "head_scores" / "vt.safetensors", folder / "profile.safetensors")
        shutil.copy(next((folder / "runs" / "games").glob("vt-[!t]*")) / "game.sqlite", folder / "game.sqlite")
        (folder / "pred").mkdir()
        answer = {"index": 0, "pred": " 12345", "outputs": ["12345"], "others": {}, "length": 256}
        (folder / "pred" / "vt.jsonl").write_text(json.dumps(answer) + "\n")
        yield folder


def rule_of(command: str) -> Rule:
    """The rule with the longest beginning; none is a rule that adds nothing."""
    known = [begin for begin in RULES if command == begin or command.startswith(f"{begin} ")]
    return RULES[max(known, key=len)] if known else Rule()


def arguments(command: str, added: bool = True) -> list[str]:
    """What is typed, with stand-ins for words in capitals."""
    rule = rule_of(command)
    words = [({**STAND_INS, **rule.stand_ins}).get(word, word) for word in shlex.split(command)]
    pairs = [re.sub(r"=DIR\b", "=out", word) for word in words]
    return pairs + (rule.added.split() if added else [])


def reason_not_to_run(command: str) -> str | None:
    """Of a command that begins so, or needs the option; optional parts are no reason, they are left out."""
    needed = forms(command)[0]
    for text, reason in ONLY_READ.items():
        if (text in needed) if text.startswith("--") else needed.startswith(text):
            return reason
    return None


def read(command: str) -> None:
    """Refuses a command that does not exist, and options that it does not have."""
    words = arguments(command, added=False)
    if words[0] == "cokv":
        read_cokv(words[1:])
    elif words[0] == "tox":
        read_tox(words)
    elif words[:2] == ["python", "-m"] and words[2] == "suite.cli":
        read_cokv(words[3:])
    elif words[0] == "python" and words[1:3] != ["-m", "pip"]:
        read_script(words)
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file(), command
        assert all(re.search(rf"\b{step}\b", (ROOT / words[1]).read_text()) for step in words[2:]), command


def read_cokv(words: list[str]) -> None:
    """As the command line reads its arguments, nothing being run."""
    context: Any = None
    command: Any = typer.main.get_command(app)
    while hasattr(command, "resolve_command"):
        context = command.make_context("cokv", [*words], parent=context, resilient_parsing=False)
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(command.name, [*words], parent=context)


def read_tox(words: list[str]) -> None:
    """The environments that are named exist, and what follows `--` is what they pass on."""
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    named = words[words.index("-e") + 1].split(",") if "-e" in words else []
    sections = " ".join(tox.sections())
    for name in named:
        assert re.search(rf"[:{{,]{re.escape(name)}\b", sections), f"tox.ini has no environment {name}"
    passed = words[words.index("--") + 1 :] if "--" in words else []
    if named in (["reproduce"], ["report"]):
        read_cokv([named[0], *passed])
    elif named == ["py"]:
        assert all((ROOT / path).exists() for path in passed), passed


def read_script(words: list[str]) -> None:
    """A module or script whose --help has every option that is named."""
    program = words[1:3] if words[1] == "-m" else [str(ROOT / words[1])]
    assert find_spec(program[1]) if program[0] == "-m" else Path(program[0]).is_file(), program
    options = [word for word in words if word.startswith("--")]
    if options:
        done = subprocess.run(
            [sys.executable, *program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert all(option in done.stdout for option in options), done.stdout


def test_pages_show_commands() -> None:
    assert len(documented_commands()) > 20 and len(inline_commands()) > 10


@pytest.mark.parametrize("command", documented_commands())
def test_a_documented_command_runs(command: str, home: Path) -> None:
    for form in every_form(command):
        read(form)
    if reason_not_to_run(command) is not None:
        return
    cannot = tuple(text for text in ONLY_READ if text.startswith("--"))
    for form in forms(command, left_out=cannot):
        program, *words = arguments(form)
        if program == "python":
            subprocess.run([sys.executable, *words], cwd=home, check=True, capture_output=True)
            continue
        assert program == "cokv", f"{form!r}: write a rule for {program}, or say in ONLY_READ why it cannot run"
        result = call(*words)
        assert result.exit_code == 0 and result.exception is None, f"{form}\n{result.output}"
        assert result.stdout.strip(), f"{form} prints nothing"


@pytest.mark.parametrize("command", inline_commands())
def test_a_command_in_a_sentence_exists(command: str) -> None:
    words = command.split()
    if words[0] != "cokv":
        read(" ".join(word for word in words if word != "..."))
        return
    path, node = [], typer.main.get_command(app)
    for word in words[1:]:
        if not hasattr(node, "commands"):
            break
        assert word in node.commands, f"{command}: no command {word} in {' '.join(['cokv', *path])}"
        node, path = node.commands[word], [*path, word]
    known = {option for parameter in node.params for option in (*parameter.opts, *parameter.secondary_opts)}
    options = {word for word in words if word.startswith("--")}
    assert options <= known or path == ["lm-eval"], f"{command}: no option {options - known}"


@pytest.mark.parametrize(
    "wrong",
    [
        "cokv fly",
        "cokv reproduce --fly",
        "cokv reproduce --limit few",
        "cokv export",
        "cokv profile fly",
        "tox -e fly",
        "tox -e reproduce -- --fly",
        "python -m suite.fly",
        "python -m suite.embedded.evaluate --fly",
        "python benchmarks/fly.py",
        "bash benchmarks/gpu.sh fly",
    ],
)
def test_what_does_not_exist_is_refused(wrong: str) -> None:
    with pytest.raises((TyperException, AssertionError)):
        read(wrong)


def test_reasons_name_what_is_documented() -> None:
    """No reason outlives the command that it excuses."""
    shown = " ".join([*documented_commands(), *inline_commands()])
    assert [text for text in ONLY_READ if text not in shown] == []


def test_usage_is_read_as_it_is_meant() -> None:
    text = "cokv a [--x | --y Z]   # note\n     [--more]\ncokv b   cokv c && tox\ncokv d | e FILE\n"
    commands = commands_of(text)
    assert commands == ["cokv a [--x | --y Z] [--more]", "cokv b", "cokv c", "tox", "cokv d | e FILE"]
    assert forms(commands[0]) == ["cokv a", "cokv a --x --more"]
    assert forms(commands[0], left_out=("--x",)) == ["cokv a", "cokv a --y Z --more"]
    assert every_form(commands[0]) == ["cokv a", "cokv a --x --more", "cokv a --y Z --more"]
    assert forms(commands[4]) == ["cokv d FILE", "cokv e FILE"]
    assert commands_of("cokv/    the library\n  deployment.py    compress\n") == []
    assert commands_of("$ cokv a\nwhat it printed\n$ tox\n") == ["cokv a", "tox"]
