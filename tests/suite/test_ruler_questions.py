"""A user's question file: head scores never see a question that a test sample asks."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cokv.model.loading import load_model
from ruler import RulerError
from suite.cli.main import app
from suite.spec import RulerSpec
from suite.tasks.ruler_tasks import prompts


@pytest.fixture
def squad(tmp_path) -> Path:
    """Ten questions, each naming its number."""
    paragraphs = [
        {
            "context": f"Lantern {i} is on shelf {i}.",
            "qas": [{"question": f"Where is lantern {i}?", "id": str(i), "answers": [{"text": f"shelf {i}"}]}],
        }
        for i in range(10)
    ]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"title": "Lanterns", "paragraphs": paragraphs}]}), encoding="utf-8")
    return path


def references(spec: RulerSpec, model: Path, count: int, seed: int, validation: bool) -> list[str]:
    loaded = load_model(str(model), None, "cpu", "float32")
    return [p.references[0] for p in prompts(spec, loaded, "qa_1", count, seed, True, validation)]


def test_no_question_serves_both(random_model, squad):
    spec = RulerSpec(preset="mini", length=300, tasks=("qa_1",), samples=6, questions={"qa_1": str(squad)})
    test = [references(spec, random_model, 6, seed, False) for seed in (0, 1)]
    assert test == [[f"shelf {i}" for i in range(6)]] * 2
    assert references(spec, random_model, 4, 0, True) == ["shelf 9", "shelf 8", "shelf 7", "shelf 6"]
    with pytest.raises(RulerError, match="6 test samples and 5 validation prompts asked, but its file has 10"):
        references(spec, random_model, 5, 0, True)


def test_a_file_too_small_is_refused_before_a_model_is_loaded(experiment_file, squad, tmp_path, monkeypatch):
    text = (
        experiment_file.read_text()
        .replace('["niah_single_1", "vt"]', '["qa_1"]')
        .replace("samples = 2", "samples = 10")
    )
    experiment_file.write_text(text.replace("[game]", f'[ruler.questions]\nqa_1 = "{squad}"\n\n[game]'))

    def never(*_: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("suite.experiment.load_model", never)
    result = CliRunner().invoke(
        app, ["reproduce", "--experiment", str(experiment_file), "--runs", str(tmp_path / "runs")]
    )
    assert result.exit_code == 2 and "10 test samples and 1 validation prompts" in result.stderr, result.output
    assert not (tmp_path / "runs").exists()
