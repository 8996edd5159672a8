"""The examples run as a user would run them, and answer what the text says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import pipeline

import cokv

ROOT = Path(__file__).parents[1]


def run(name: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_readme_runs_as_it_is_pasted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first two blocks in one interpreter, with the scorer of a later one in the file that it names."""
    first, second, scorer = [
        block.partition("```")[0]
        for block in (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1:4]
    ]
    (tmp_path / "mymethods.py").write_text(scorer, encoding="utf-8")
    monkeypatch.chdir(tmp_path)  # it writes a file
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {}
    exec(compile(first, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "1787679" in printed and "KV slots" in printed, printed
    exec(compile(second, "README.md", "exec"), names)


def test_one_prompt_three_caches() -> None:
    full, full_memory, snapkv, snapkv_memory, streaming, streaming_memory = run("generate.py")
    assert full.startswith("full") and "1787679" in full and "(100.0%)" in full_memory
    assert snapkv.startswith("snapkv") and "1787679" in snapkv, "a fifth of the cache holds the answer"
    assert streaming.startswith("streamingllm") and "1787679" not in streaming, "the newest tokens do not hold it"
    shares = [float(line.partition("(")[2].partition("%")[0]) for line in (snapkv_memory, streaming_memory)]
    assert all(19 < share < 22 for share in shares), shares


def test_a_second_question_is_answered_on_the_compressed_text() -> None:
    text, first, second, after = run("chat.py")
    assert "39." in text or "40." in text, text
    assert first.startswith("lantern: 1787679") and second.startswith("basket: 9592991"), (first, second)
    assert "KV slots" in after


def test_a_saved_context_is_asked_in_another_process(tmp_path: Path) -> None:
    (text,) = run("saved_context.py", "read", str(tmp_path / "text.cokv"))
    assert "39." in text or "40." in text, text
    first, second = run("saved_context.py", "ask", str(tmp_path / "text.cokv"), "lantern", "basket")
    assert first.startswith("lantern: 1787679") and second.startswith("basket: 9592991"), (first, second)


def test_a_pipeline_takes_the_cache() -> None:
    loaded = cokv.load_model()
    key = "The secret number of lantern is"
    text = f"{key} 1787679. {'The road was long. ' * 150}\nWhat is the secret number of lantern? {key}"
    cache = cokv.compress(loaded.model, "snapkv", kv_budget="20%", window_size=8)
    generate = pipeline("text-generation", model=loaded.model, tokenizer=loaded.tokenizer)
    (answer,) = generate(text, past_key_values=cache, max_new_tokens=8, do_sample=False, return_full_text=False)
    assert answer["generated_text"].startswith(" 1787679")
    assert 0 < cache.memory().tokens_held < cache.memory().tokens_read / 4
