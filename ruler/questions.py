"""Reads SQuAD and HotpotQA files into a QuestionSet. Knows their shapes, checks what it reads, and nothing of prompts.

Facts follow NVIDIA/RULER `scripts/data/synthetic/qa.py`: SQuAD questions marked impossible are left out, the other
paragraphs of the article are the near documents; a HotpotQA document is its title, a line break and its sentences.
Differs: of HotpotQA's ten documents only those with supporting facts count as needed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruler.errors import RulerError
from ruler.qa import Question, QuestionSet


def read_questions(path: Path) -> QuestionSet:
    """Questions of a SQuAD v1/v2 file (`data/paragraphs/qas`) or a HotpotQA file (a list of `question, answer,
    context`).
    """
    expected = "expected a SQuAD or HotpotQA JSON file"
    try:
        raw = json.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise RulerError(f"no question file {path}; {expected}") from None
    except OSError as error:
        raise RulerError(f"cannot read {path} ({error.strerror}); {expected}") from None
    except UnicodeDecodeError as error:
        raise RulerError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); {expected}") from None
    except json.JSONDecodeError as error:
        raise RulerError(f"{path} is broken JSON ({error.msg} in line {error.lineno}); {expected}") from None
    except (ValueError, RecursionError) as error:
        raise RulerError(f"{path} cannot be parsed ({type(error).__name__}); {expected}") from None
    documents: dict[str, int] = {}
    try:
        questions = tuple(_squad(raw, documents) if isinstance(raw, dict) else _hotpot(raw, documents))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise RulerError(
            f"{path} is neither SQuAD nor HotpotQA JSON ({type(error).__name__}: {error}); {expected}"
        ) from None
    if not questions:
        raise RulerError(f"{path} has no answerable question; {expected}")
    return QuestionSet(questions, tuple(documents))


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{what} is {value!r:.40}")
    return value


def _number(document: str, documents: dict[str, int]) -> int:
    """The document's index, a new one at first sight."""
    return documents.setdefault(document, len(documents))


def _squad(raw: dict[str, Any], documents: dict[str, int]) -> Iterator[Question]:
    for article in raw["data"]:
        passages = [_number(_text(p["context"], "a context"), documents) for p in article["paragraphs"]]
        for passage, paragraph in zip(passages, article["paragraphs"], strict=True):
            near = tuple(dict.fromkeys(p for p in passages if p != passage))
            for qa in paragraph["qas"]:
                if qa.get("is_impossible", False) or not qa["answers"]:
                    continue
                answers = tuple(dict.fromkeys(_text(a["text"], "an answer") for a in qa["answers"]))
                yield Question(_text(qa["question"], "a question"), answers, (passage,), near)


def _hotpot(raw: list[dict[str, Any]], documents: dict[str, int]) -> Iterator[Question]:
    for item in raw:
        numbers = {
            _text(title, "a title"): _number(f"{title}\n{''.join(sentences)}", documents)
            for title, sentences in item["context"]
        }
        titles = {title for title, _ in item["supporting_facts"]}
        needed = tuple(n for title, n in numbers.items() if title in titles)
        if not needed:
            raise ValueError("no document holds a supporting fact")
        near = tuple(n for n in dict.fromkeys(numbers.values()) if n not in needed)
        yield Question(_text(item["question"], "a question"), (_text(item["answer"], "an answer"),), needed, near)
