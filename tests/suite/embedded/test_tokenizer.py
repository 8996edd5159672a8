"""The embedded tokenizer: loses nothing, one token per word, numbers in pairs of digits, and the one that ships."""

import json
import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from cokv.embedded import WEIGHTS
from longbench.mini.generate import BUILDERS, generate, wording
from ruler import words
from ruler.generate import draft
from ruler.tasks import TASKS
from suite.embedded.mixture import Plain
from suite.embedded.tokenizer import SPECIALS, build, token_id

SHIPPED = WEIGHTS / "tokenizer.json"
UUID = re.compile("[0-9a-f]{8}-[0-9a-f-]{27}")  # these are letters and digits, as they should be
NO_SPECIALS = st.text().filter(lambda text: not any(special in text for special in SPECIALS))


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """What each token stands for."""
    return [tokenizer.decode([i]) for i in tokenizer.encode(text, add_special_tokens=False).ids]


@given(text=NO_SPECIALS)
@example(text="")
@example(text="   two  spaces\tand\r\n\n\u00a0a hard one ")
@example(text="汉字 🧑🏽\u200d🚀 e\u0301 \u202eright to left\u202c \x00\ufeff\U0010ffff")
@example(text="0123456789 007 1.5e-3 ٣")
def test_any_text_comes_back_as_it_was(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert all(i >= len(SPECIALS) for i in ids), "plain text became a special token"


@given(left=NO_SPECIALS, right=NO_SPECIALS)
def test_a_line_break_parts_tokens(tokenizer: Tokenizer, left: str, right: str) -> None:
    """So the tokens of a prompt do not depend on the answer that follows it on a new line."""

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    assert ids(f"{left}\n{right}") == ids(left) + ids("\n") + ids(right)


def test_a_key_word_is_one_token(tokenizer: Tokenizer) -> None:
    split = [word for word in words.KEYS if pieces(tokenizer, f" {word}") != [f" {word}"]]
    assert not split, f"{len(split)} of {len(words.KEYS)} key words fall apart, {split[:3]} among them"


def test_a_name_is_one_token_at_the_start_of_a_line_too(tokenizer: Tokenizer) -> None:
    assert not [name for name in words.NAMES if pieces(tokenizer, f"\n{name}") != ["\n", name]]


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_an_answer_of_a_stand_in_fits_the_tokens_it_may_have(tokenizer: Tokenizer, name: str) -> None:
    for drafted in generate(name, Plain(tokenizer), 512, 10, seed=0):
        assert len(tokenizer.encode(drafted.gold, add_special_tokens=False).ids) <= wording()[name]["max_new_tokens"]


def test_chinese_of_the_stand_ins_is_one_token_a_character(tokenizer: Tokenizer) -> None:
    for drafted in generate("lsht", Plain(tokenizer), 512, 10, seed=0):
        text = drafted.record["context"]
        assert len(tokenizer.encode(text, add_special_tokens=False).ids) == len(text)


@given(number=st.integers(0, 10**12).map(str))
def test_numbers_are_pairs_of_digits_from_the_left(tokenizer: Tokenizer, number: str) -> None:
    assert pieces(tokenizer, number) == [number[i : i + 2] for i in range(0, len(number), 2)]


@pytest.mark.parametrize("task", sorted(TASKS["mini"]))
def test_words_of_prompts_hardly_ever_fall_apart(tokenizer: Tokenizer, task: str) -> None:
    drafted = draft(TASKS["mini"][task], 20, random.Random(f"tokenizer test/{task}"))
    split_words = pieces(tokenizer, UUID.sub("", drafted.prompt))
    letters = sum(len(piece) == 1 and piece.isalpha() for piece in split_words)
    assert letters < 0.1 * len(split_words), f"{letters} of {len(split_words)} tokens are single letters"


def test_specials_come_first_and_are_left_out_of_answers(tokenizer: Tokenizer) -> None:
    ids = [token_id(tokenizer, special) for special in SPECIALS]
    assert ids == [0, 1, 2]
    one = tokenizer.encode(" is", add_special_tokens=False).ids
    assert tokenizer.decode([1, *one, 2, 0], skip_special_tokens=True) == " is"


def test_a_token_that_is_not_there_is_said(tokenizer: Tokenizer) -> None:
    with pytest.raises(AssertionError, match="<mask>"):
        token_id(tokenizer, "<mask>")


@given(text=NO_SPECIALS)
def test_encoding_adds_one_bos_and_nothing_else(tokenizer: Tokenizer, text: str) -> None:
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text).ids == [token_id(tokenizer, "<bos>"), *plain]


def test_building_again_gives_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    assert build().to_str() == tokenizer.to_str()


@pytest.mark.skipif(not SHIPPED.exists(), reason="no weights in the package")
def test_the_shipped_tokenizer_is_the_one_this_code_builds(tokenizer: Tokenizer) -> None:
    shipped, built = json.loads(SHIPPED.read_text(encoding="utf-8")), json.loads(tokenizer.to_str())
    assert shipped["model"]["vocab"] == built["model"]["vocab"], (
        "the vocabulary changed: the shipped weights read another"
    )
    assert shipped == built
