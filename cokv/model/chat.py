"""A tokenizer's own chat template: a text as the user's turn, ready for the answer, and the token that ends a turn.

A template writes its special tokens itself, BOS included, so a wrapped text is encoded with `add_special_tokens=False`,
as transformers' `apply_chat_template(tokenize=True)` does. A system prompt that a template adds by itself stays; where
it states today's date, `fix_date` sets one, so that a prompt is the same tomorrow.
"""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from cokv.types import CokvError

# 26 July 2024, as in Llama 3.1's template, in place of the function of transformers that asks the clock.
FIXED_DATE = (
    "{% macro strftime_now(form) %}{{ form | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July') "
    "| replace('%m', '07') | replace('%Y', '2024') | replace('%y', '24') | replace('%A', 'Friday') "
    "| replace('%a', 'Fri') | replace('%H', '00') | replace('%M', '00') | replace('%S', '00') }}{% endmacro %}"
)


def has_chat_template(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def fix_date(tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes a template that states today's date state the same one every day."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str) and "strftime_now" in template and not template.startswith(FIXED_DATE):
        tokenizer.chat_template = FIXED_DATE + template


def user_turn(tokenizer: PreTrainedTokenizerBase, text: str, **arguments: Any) -> str:
    """`text` as the user's only turn, then what begins the answer (the generation prompt).

    arguments: of the template, such as enable_thinking.
    """
    if not has_chat_template(tokenizer):
        raise CokvError(
            "this model's tokenizer has no chat template; use an instruct model, or read the prompt without one"
        )
    return _render(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True, **arguments)


def user_turn_around(
    tokenizer: PreTrainedTokenizerBase, context: str, question: str, **arguments: Any
) -> tuple[str, str]:
    """`user_turn` of context + question, cut between the two: the template's beginning is with the context, its end
    with the question.

    A template may strip the turn at both ends, never at the cut.
    """
    mark = "[cut]"
    while mark in context or mark in question:
        mark = f"[{mark}]"
    parts = user_turn(tokenizer, context + mark + question, **arguments).split(mark)
    if len(parts) != 2:
        raise CokvError(f"the model's chat template writes the user's turn {len(parts) - 1} times; expected once")
    return parts[0], parts[1]


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts right behind an answer; None if there is no such token.

    Models converted by hand often name another end token in their generation config, and would not stop here.
    """
    if not has_chat_template(tokenizer):
        return None
    answer = "answer"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": answer}]
    try:
        behind = _render(tokenizer, turns, add_generation_prompt=False).rpartition(answer)[2].lstrip()
    except CokvError:  # a template for other conversations
        return None
    ids: Any = tokenizer.encode(behind, add_special_tokens=False)
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", {})}
    return int(ids[0]) if ids and ids[0] in special else None


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **arguments: Any) -> str:
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, **arguments))
    except (TemplateError, ValueError, TypeError, KeyError) as error:
        raise CokvError(
            f"the model's chat template fails on a plain turn: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}; fix the template, or read prompts without it"
        ) from None
