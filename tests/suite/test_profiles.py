"""`cokv profile compare`: tables of published files, and every mistake in one line with exit code 2."""

import numpy as np
import pytest

from cokv.types import HeadScores
from suite.cli.profile import app


def main(arguments: list[str]) -> int:
    return app(["compare", *arguments], standalone_mode=False) or 0


@pytest.fixture
def scores(tmp_path):
    path = tmp_path / "scores.safetensors"
    HeadScores(np.arange(32.0).reshape(4, 8) - 20).save(path)
    return path


def test_tables_and_page(scores, tmp_path, capsys):
    assert main([str(scores), "--alpha", "3", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Budgets" in out and "CoKV normalized" in out and "4,096" in out
    assert out.splitlines()[-1] == str(tmp_path / "out" / "profiles.md")
    assert (tmp_path / "out" / "profile_scores.svg").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--shape", "32"], ["--shape", "0x8"], ["--shape", "8x4"], ["--alpha", "99"], ["--alpha", "0"],
        ["--kv-budget", "8"], ["--kv-budget", "-1"], ["--prompt-tokens", "5"],
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(scores, arguments, capsys):
    assert main([str(scores), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("cokv: ") and err.count("\n") == 1


def test_a_hostile_file_is_one_line(tmp_path, capsys):
    class Canary:
        def __reduce__(self):
            return exec, ("print('ran')",)

    np.save(tmp_path / "cc_x_2.npy", {"a": Canary()})
    assert main([str(tmp_path / "cc_x_2.npy")]) == 2
    captured = capsys.readouterr()
    assert "builtins.exec' is refused" in captured.err and "ran" not in captured.out
