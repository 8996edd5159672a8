"""Where popular re-implementations leave the official metric: each row of docs/differences.md, shown on an example.

The other ways restate the one step of the released code that the row names; the project does not use them. A test
finds both values, and the row that names the test must show exactly these.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pytest

from longbench.errors import LongBenchError
from longbench.metrics import bucket_scores, code_sim_score, dataset_score, rouge_score, sample_score, second_score
from longbench.presets import get_preset
from longbench.protocol import build_prompt, encode, stop_rule
from longbench.rescoring import read_predictions
from longbench.tasks import TASKS, V2, official_count
from longbench.templates import Templates, read_templates
from longbench.v2 import accuracy, judge
from ruler.metrics import postprocess_pred, string_match_all, string_match_part
from ruler.scoring import score as ruler_score

ROOT = Path(__file__).parents[2]


def table(path: Path) -> dict[str, list[str]]:
    """Test name -> the cells of its row."""
    rows = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("|") and (match := re.search(r"`(test_\w+)` \|$", line)):
            rows[match.group(1)] = [cell.strip() for cell in line.strip("|").split("|")]
    return rows


WHOLE = table(ROOT / "docs" / "differences.md")


def written(value: float | str | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(written, value))
    return value if isinstance(value, str) else f"{round(value, 2):g}"


def shown(official: float | str | tuple[float, ...], other: float | str) -> list[str]:
    """Two values as a row shows them."""
    return [written(official), written(other)]


@pytest.fixture
def row(request: pytest.FixtureRequest) -> list[str]:
    """What the row of this test shows: the official value, and the other way's."""
    return WHOLE[request.node.name][2:4]


def test_every_row_has_its_test_and_every_test_its_row() -> None:
    tests = {
        name
        for name, function in inspect.getmembers(sys.modules[__name__], inspect.isfunction)
        if name.startswith("test_") and "row" in inspect.signature(function).parameters
    }
    assert set(WHOLE) == tests


def test_the_two_ways_of_a_row_differ() -> None:
    assert [name for name, cells in WHOLE.items() if cells[2] == cells[3]] == []


def test_the_readmes_rows_are_rows_of_the_whole_table() -> None:
    short = table(ROOT / "README.md")
    assert short, "the README shows some of them"
    assert f"A few of the {len(WHOLE)} differences" in (ROOT / "README.md").read_text(encoding="utf-8")
    for name, cells in short.items():
        assert cells[2:4] == WHOLE[name][2:4], name


# --- scoring ---------------------------------------------------------------------------------------------------------


def test_another_rouge_package(row: list[str]) -> None:
    summary, gold = "The green lantern, it said, is on the shelf.", "the green lantern is on the shelf"
    google = second_score("gov_report", summary, [gold])
    assert google is not None
    assert shown(100 * rouge_score(summary, gold), 100 * google) == row


def test_levenshtein_in_place_of_difflib(row: list[str]) -> None:
    prediction, gold = "A S A L", "A L I E N S"
    assert shown(100 * code_sim_score(prediction, gold), round(100 * indel_ratio(prediction, gold))) == row


def indel_ratio(left: str, right: str) -> float:
    """python-Levenshtein's `ratio`: twice the longest common subsequence, over both lengths."""
    row = [0] * (len(right) + 1)
    for a in left:
        before, row = row, [0]
        for j, b in enumerate(right):
            row.append(before[j] + 1 if a == b else max(before[j + 1], row[j]))
    return 2 * row[-1] / (len(left) + len(right))


def test_blank_lines_skipped_in_code(row: list[str]) -> None:
    prediction, gold = "   \nreturn total", "return total"
    line = next(line for line in prediction.split("\n") if line.strip())
    assert shown(100 * code_sim_score(prediction, gold), 100 * SequenceMatcher(None, line, gold).ratio()) == row


def test_indentation_of_code_stripped(row: list[str]) -> None:
    line = "    total += 1"
    assert shown(100 * sample_score("lcc", line, [line]), 100 * sample_score("lcc", line.lstrip(), [line])) == row


def test_white_space_stripped_before_the_first_line(row: list[str]) -> None:
    prediction = " \nParis"
    other = sample_score("triviaqa", prediction.lstrip(), ["Paris"])
    assert shown(100 * sample_score("triviaqa", prediction, ["Paris"]), 100 * other) == row


def test_no_first_line_rule(row: list[str]) -> None:
    prediction = "Paris\nQuestion: Which river?\nAnswer: Seine"
    other = sample_score("hotpotqa", prediction, ["Paris"])  # the same metric, a data set without the rule
    assert shown(100 * sample_score("triviaqa", prediction, ["Paris"]), 100 * other) == row


def test_first_gold_answer_only(row: list[str]) -> None:
    golds = ["a lantern", "a lamp"]
    assert shown(100 * sample_score("qasper", "lamp", golds), 100 * sample_score("qasper", "lamp", golds[:1])) == row


def test_substring_match_in_place_of_f1(row: list[str]) -> None:
    prediction = "The ship came in late at night, and it was green."
    other = ruler_score("part", prediction, ["green"])
    assert shown(100 * sample_score("hotpotqa", prediction, ["green"]), other) == row


def test_answers_cut_before_they_are_judged(row: list[str]) -> None:
    prediction = "green (Document 3)"
    cut = re.split(r"\.assistant|\n\nQuestion|</s>|\(Document|\n\nAnswer|\(Passage", prediction)[0].strip()
    whole, part = (100 * sample_score("qasper", text, ["green"]) for text in (prediction, cut))
    assert shown(whole, part) == row


def test_rounded_before_the_mean(row: list[str]) -> None:
    scores = [sample_score("qasper", answer, ["green"]) for answer in ("lamp green", "no", "no")]
    assert shown(dataset_score(scores), sum(round(100 * score) for score in scores) / len(scores)) == row


def test_unreadable_lines_skipped(row: list[str], tmp_path: Path) -> None:
    line = {"pred": "green", "answers": ["green"], "all_classes": None, "length": 4}
    lines = [json.dumps(line), json.dumps(line | {"pred": "red"})[:-9], json.dumps(line)]
    path = tmp_path / "qasper.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(LongBenchError, match="line 2"):
        read_predictions(path)
    kept = []
    for text in lines:
        try:
            kept.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    assert shown("error", dataset_score([sample_score("qasper", one["pred"], one["answers"]) for one in kept])) == row


def test_one_mean_for_longbench_e(row: list[str]) -> None:
    scores, lengths = [1.0, 1.0, 1.0, 0.0, 0.0], [100, 200, 300, 5000, 9000]
    assert shown(tuple(bucket_scores(scores, lengths).values()), dataset_score(scores)) == row


def test_v2_counts_every_letter_named(row: list[str]) -> None:
    response = "The correct answer is (A)? No. The correct answer is (B)? No. The correct answer is (C)."
    assert shown(100 * judge(response, "C"), 100 * ("The correct answer is (C)" in response)) == row


def test_v2_few_tokens_to_answer_in(row: list[str]) -> None:
    response = "Of the four lanterns on the shelf only the second is green. The correct answer is (B)."
    words = response.split()
    assert len(words) < V2.max_new_tokens
    assert shown(*(100 * judge(" ".join(words[:tokens]), "B") for tokens in (V2.max_new_tokens, 16))) == row


def test_v2_guessing_compensated(row: list[str]) -> None:
    rows = [{"pred": None, "judge": False, "difficulty": "easy", "length": "short"}] * 4
    assert shown(accuracy(rows)["overall"], accuracy(rows, compensated=True)["overall"]) == row


def test_ruler_share_in_place_of_any(row: list[str]) -> None:
    prediction, golds = "It was in Paris.", ["Paris", "Paris, France", "the city of Paris"]
    assert shown(string_match_part([prediction], [golds]), string_match_all([prediction], [golds])) == row


def test_ruler_control_characters_deleted(row: list[str]) -> None:
    prediction, gold = "12345\n67", "1234567"
    deleted = re.sub("[\x00-\x1f]", "", prediction.strip()).strip()
    assert shown(*(string_match_all([text], [[gold]]) for text in (postprocess_pred(prediction), deleted))) == row


# --- prompt and generation -------------------------------------------------------------------------------------------

TEMPLATE = "Read the shelf: {context}\n\nAsk now this: {input}"
TEMPLATES = Templates(
    {name: TEMPLATE for name in TASKS}, {name: task.max_new_tokens for name, task in TASKS.items()}, {}
)


def words(text: str, *wanted: str) -> int:
    return sum(word in text.split() for word in wanted)


def cut(tokenizer: Any, text: str, part: slice) -> str:
    return tokenizer.decode(encode(tokenizer, text, special=True)[part], skip_special_tokens=True)


@pytest.fixture
def long(world: Any) -> dict[str, Any]:
    return world.record(0, context=" ".join(f"w{i}" for i in range(500)), input="which lantern stands")


PROTOCOL = replace(get_preset("official"), max_length=40, max_lengths=())


def test_cut_from_the_left(row: list[str], tokenizer: Any, long: dict[str, Any]) -> None:
    kept = build_prompt(replace(PROTOCOL, chat="never"), "qasper", TEMPLATE, long, tokenizer).text
    other = cut(tokenizer, TEMPLATE.format(**long), slice(-40, None))
    assert shown(words(kept, "Read", "the", "shelf:"), words(other, "Read", "the", "shelf:")) == row


def test_cut_from_the_right(row: list[str], tokenizer: Any, long: dict[str, Any]) -> None:
    template = "Read: {context}\n\nAnswer with one word.\n\nAsk: {input}"
    kvpress = replace(get_preset("kvpress"), max_length=40, chat="never")
    prompts = [build_prompt(p, "qasper", template, long, tokenizer) for p in (replace(PROTOCOL, chat="never"), kvpress)]
    assert all("which lantern stands" in prompt.text for prompt in prompts), "the question is kept either way"
    assert shown(*(words(prompt.text, "Answer", "with", "one", "word.") for prompt in prompts)) == row


def test_cut_after_the_chat_template(row: list[str], tokenizer: Any, long: dict[str, Any]) -> None:
    kept = build_prompt(PROTOCOL, "qasper", TEMPLATE, long, tokenizer).text
    wrapped = tokenizer.chat_template.format(text=TEMPLATE.format(**long))
    other = cut(tokenizer, wrapped, slice(20)) + cut(tokenizer, wrapped, slice(-20, None))
    assert shown(*(len(re.findall(r"w\d+", text)) for text in (kept, other))) == row


def test_chat_template_on_every_task(row: list[str], tokenizer: Any, world: Any) -> None:
    def wrapped(protocol: Any) -> int:
        return sum(build_prompt(protocol, name, TEMPLATE, world.record(0, name), tokenizer).chat for name in TASKS)

    assert shown(wrapped(PROTOCOL), wrapped(replace(PROTOCOL, chat="always"))) == row


def test_begin_token_twice(row: list[str], tokenizer: Any, world: Any) -> None:
    tokenizer.chat_template = "<s> [user] {text} [assistant]"
    prompt = build_prompt(PROTOCOL, "qasper", TEMPLATE, world.record(0), tokenizer)
    again = encode(tokenizer, prompt.text, special=True)
    assert shown(*(sum(tokenizer.pieces[i] == "<s>" for i in ids) for ids in (prompt.input_ids, again))) == row


def test_question_after_compression(row: list[str], tokenizer: Any, long: dict[str, Any]) -> None:
    def contexts(protocol: Any) -> int:
        prompt = build_prompt(protocol, "qasper", TEMPLATE, long, tokenizer)
        ids = list(prompt.input_ids[: prompt.context_tokens])
        return words(tokenizer.decode(ids, skip_special_tokens=True), "which", "lantern", "stands")

    plain = replace(PROTOCOL, chat="never")
    assert shown(contexts(plain), contexts(replace(plain, query_aware=False))) == row


def test_no_newline_stop(row: list[str], tokenizer: Any) -> None:
    rules = [stop_rule(get_preset(name), "samsum", TEMPLATES, tokenizer) for name in ("official", "kvcache-factory")]
    assert shown(*(len(rule.token_ids) for rule in rules)) == row


def test_leading_newline_ends_the_answer(row: list[str]) -> None:
    generated = "\nParis\nQuestion: Which river?"
    other = generated.split("\n")[0].strip()
    assert shown(*(100 * sample_score("triviaqa", text, ["Paris"]) for text in (generated, other))) == row


def test_more_tokens_generated(row: list[str], tokenizer: Any) -> None:
    rules = [stop_rule(get_preset(name), "samsum", TEMPLATES, tokenizer) for name in ("official", "kvpress")]
    assert shown(*(rule.max_new_tokens for rule in rules)) == row


def test_code_prompt_without_its_newline(row: list[str], data_root: Path) -> None:
    official = read_templates(data_root / "longbench_config").prompt("lcc")
    assert shown(*(len(text.split("code:")[-1]) for text in (official, official.rstrip("\n")))) == row


def test_plain_files_for_longbench_e(row: list[str]) -> None:
    assert shown(official_count("qasper_e"), official_count("qasper")) == row
