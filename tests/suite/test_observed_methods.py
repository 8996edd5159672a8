"""Methods that must look at the whole prompt run in the suite: one prefill looks for all of them."""

import pytest

from suite.experiment import run_experiment
from suite.run import answers
from suite.spec import read_experiment

NAMES = ["full", "h2o", "scissorhands", "tova", "knorm", "keydiff", "expectedattention", "fastgen"]
NAMES += ["criticalkv", "cake", "kvzip", "duoattention", "headkv_r", "lukv"]


@pytest.fixture
def records(tmp_path, random_model, monkeypatch):
    file = tmp_path / "observed.toml"
    file.write_text(
        f"""
name = "observed"
methods = {NAMES}
kv_budgets = [24, 48]
model = {{name = "{random_model}"}}
method_defaults = {{window_size = 8, recent = 4}}
ruler = {{preset = "mini", length = 160, samples = 2, tasks = ["vt"]}}
profiles = {{prompts = 1, passkey_length = 384, steps = 2}}
""",
        encoding="utf-8",
    )
    prefills = []
    original = answers.prefill
    monkeypatch.setattr(answers, "prefill", lambda *args, **kw: prefills.append(1) or original(*args, **kw))
    folder = run_experiment(read_experiment(file), tmp_path / "runs")
    assert len(prefills) == 2, "one prefill per sample"
    return folder.lines("predictions.jsonl")


def test_every_method_spends_its_total_or_says_why_not(records):
    assert len(records) == 2 * (1 + 2 * (len(NAMES) - 1))
    for record in records:
        if record["method"] == "headkv_r":
            assert "answers none of 3 needle prompts right" in record["unsupported"], "the model is random"
            assert record["score"] is None and "kept_tokens" not in record
        elif record["method"] == "duoattention":
            refused = "no valid profile: the model predicts" in record.get("unsupported", "")
            assert refused or "64 sinks" in record["infeasible"]
        elif record["method"] == "fastgen" and record["infeasible"]:
            assert "expected at least 0.5" in record["infeasible"]
        elif record["method"] == "lukv" and "unsupported" in record:
            assert "no valid profile: split-half reliability" in record["unsupported"]
        else:
            assert record["infeasible"] is None
            assert record["kept_tokens"] == (record["kv_budget"] or record["prompt_tokens"]) * 4
