"""From a record to the prompt's tokens, and when decoding stops: every choice of a protocol is a named field.

Released code: THUDM/LongBench, `pred.py`. The presets of published protocols are in `presets.py`.

A tokenizer is any object with `encode(text, add_special_tokens=...)` and `decode(ids, skip_special_tokens=...)`, plus
`apply_chat_template` where a chat template is used; nothing here imports one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from typing import Protocol as Interface

from longbench import v2
from longbench.errors import LongBenchError
from longbench.parts import Cut, split_prompt
from longbench.tasks import V2, Task, get_task
from longbench.templates import Templates


class Tokenizer(Interface):
    """The part of a Hugging Face tokenizer that is used here."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Any: ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


@dataclass(frozen=True)
class Protocol:
    """One way to run LongBench.

    max_length: prompt tokens kept before the chat template, None for all; max_lengths: the same by part of a model's
    name, the last match wins. truncation: `middle` keeps both ends, decoded apart, `middle_joint` keeps both ends,
    decoded together (as version 2 does), `head` the beginning. chat: `task` wraps the
    prompts of tasks that allow it in the tokenizer's own chat template, `always` wraps all, `never` none.
    newline_stop: data sets whose generation ends at a newline, after one token at least. min_new_tokens: of every
    data set. extra_new_tokens: added to the generation length, which is the official one unless max_new_tokens gives
    another, for all data sets or by data set. eos: which end tokens count, the model's `generation_config` or the
    `tokenizer`'s one; stop_ids: further ones. query_aware: is the question in the prompt while tokens are chosen;
    if not, question_at says where it begins (`parts.py`) and cue in whose turn of a chat its last line, such as
    `Answer:`, stands. tail_tokens: last prompt tokens that are run on the compressed cache of those before them.
    first_token: from the uncompressed prefill, or from the last prompt token run again on the compressed cache.
    cut_at: the prediction ends before the first of these; cut_datasets: and, in these data sets, before the first of
    those too; strip: then it is stripped.
    """

    name: str
    paper: str
    released: str
    max_length: int | None = None
    max_lengths: tuple[tuple[str, int], ...] = ()
    truncation: Literal["middle", "middle_joint", "head"] = "middle"
    chat: Literal["task", "always", "never"] = "task"
    chat_arguments: tuple[tuple[str, bool | int | str], ...] = ()
    newline_stop: tuple[str, ...] = ("samsum",)
    min_new_tokens: int = 0
    extra_new_tokens: int = 0
    max_new_tokens: int | tuple[tuple[str, int], ...] | None = None
    stop_ids: tuple[int, ...] = ()
    eos: Literal["generation_config", "tokenizer"] = "tokenizer"
    query_aware: bool = True
    question_at: Cut = "context_end"
    cue: Literal["user", "assistant"] = "user"
    tail_tokens: int = 0
    first_token: Literal["prefill", "compressed"] = "prefill"
    cut_at: tuple[str, ...] = ()
    cut_datasets: tuple[tuple[str, str], ...] = ()
    strip: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        for length in (self.max_length, *(length for _, length in self.max_lengths)):
            if length is not None and length < 2:
                raise LongBenchError(f"got max_length {length}, expected at least 2: half of it is kept at each end")
        counts = self.max_new_tokens if isinstance(self.max_new_tokens, tuple) else (("", self.max_new_tokens),)
        if any(count is not None and count < 1 for _, count in counts) or self.min_new_tokens < 0:
            raise LongBenchError(
                f"got max_new_tokens {self.max_new_tokens} and min_new_tokens {self.min_new_tokens}, expected at "
                "least one token and none"
            )

    def length_for(self, model: str) -> int | None:
        """Prompt tokens kept for a model of this name."""
        length = self.max_length
        for part, value in self.max_lengths:
            if part.lower() in model.lower():
                length = value
        return length


@dataclass(frozen=True)
class TokenizedPrompt:
    """text: after truncation and chat template. input_ids: its tokens. context_tokens: how many
    of them are compressed before the rest (the question, or the protocol's tail) is read; None when all are read at
    once."""

    text: str
    input_ids: tuple[int, ...]
    truncated: bool
    chat: bool
    context_tokens: int | None


@dataclass(frozen=True)
class StopRule:
    """Greedy decoding ends at one of `token_ids` (not before `min_new_tokens`) or after `max_new_tokens`."""

    token_ids: tuple[int, ...]
    min_new_tokens: int
    max_new_tokens: int


def encode(tokenizer: Tokenizer, text: str, *, special: bool) -> list[int]:
    ids = tokenizer.encode(text, add_special_tokens=special)
    return list(getattr(ids, "ids", ids))


def truncate(tokenizer: Tokenizer, text: str, max_length: int | None, mode: str = "middle") -> tuple[str, bool]:
    """(text, whether it was cut). Middle: half of `max_length` tokens from each end, decoded without specials.

    Version 1 decodes the halves apart and drops the odd token; version 2 decodes them together and keeps it.
    """
    if max_length is None:
        return text, False
    if max_length < 2:
        raise LongBenchError(f"got max_length {max_length}, expected at least 2: half of it is kept at each end")
    ids = encode(tokenizer, text, special=True)
    if len(ids) <= max_length:
        return text, False
    if mode == "head":
        return tokenizer.decode(ids[:max_length], skip_special_tokens=True), True
    if mode == "middle_joint":
        kept = ids[: max_length // 2] + ids[-max_length // 2 :]
        return tokenizer.decode(kept, skip_special_tokens=True), True
    half = int(max_length / 2)
    first, last = ids[:half], ids[-half:]
    return tokenizer.decode(first, skip_special_tokens=True) + tokenizer.decode(last, skip_special_tokens=True), True


def format_prompt(template: str, record: Mapping[str, Any]) -> str:
    """Version 1's prompt: `template.format(**record)`, byte for byte."""
    return template.format(**record)


def build_prompt(
    protocol: Protocol, dataset: str, template: str, record: Mapping[str, Any], tokenizer: Tokenizer, model: str = ""
) -> TokenizedPrompt:
    """The prompt of one record: format, truncate, wrap in the chat template, tokenize again."""
    task = get_task(dataset)
    fill = v2.build_prompt if task is V2 else format_prompt
    length = protocol.length_for(model)
    chat = protocol.chat == "always" or (protocol.chat == "task" and task.chat_template)
    if protocol.query_aware:
        text, truncated = truncate(tokenizer, fill(template, record), length, protocol.truncation)
        if chat:
            text = _chat(tokenizer, text, protocol)
        ids = encode(tokenizer, text, special=not chat)
        before_tail = max(len(ids) - protocol.tail_tokens, 1) if protocol.tail_tokens else None
        return TokenizedPrompt(text, tuple(ids), truncated, chat, before_tail)

    context, question, cue = split_prompt(dataset, template, record, protocol.question_at)
    context, truncated = truncate(tokenizer, context, length, protocol.truncation)
    if chat:
        context, question = _chat_around(tokenizer, context, question, cue, protocol)
    else:
        question += cue
    context_ids = encode(tokenizer, context, special=not chat)
    ids = context_ids + encode(tokenizer, question, special=False)
    return TokenizedPrompt(context + question, tuple(ids), truncated, chat, len(context_ids))


def _chat(tokenizer: Tokenizer, text: str, protocol: Protocol) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise LongBenchError(
            f"protocol {protocol.name!r} wraps prompts in the tokenizer's chat template, but this tokenizer has none; "
            "use a chat model's tokenizer or set [longbench.fields] chat = 'never'"
        )
    wrapped: str = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, **dict(protocol.chat_arguments)
    )
    return wrapped


def _chat_around(tokenizer: Tokenizer, context: str, question: str, cue: str, protocol: Protocol) -> tuple[str, str]:
    """The chat text, cut between context and question. The cue ends the user's turn, or begins the assistant's."""
    mark = "#" * (len(context) + len(question) + 10)  # longer than any run of # in either
    before, after = _chat(tokenizer, context + mark, protocol).split(mark)
    return before, question + (cue + after if protocol.cue == "user" else after + cue)


def stop_rule(
    protocol: Protocol, dataset: str, templates: Templates, tokenizer: Any, eos_token_ids: Sequence[int] = ()
) -> StopRule:
    """When generation ends. `eos_token_ids` are the model's own, from its generation config.

    A newline stop replaces them by the tokenizer's end token and the last token of an encoded newline.
    """
    task: Task = get_task(dataset)
    eos_id = getattr(tokenizer, "eos_token_id", None)
    eos_ids = () if eos_id is None else (int(eos_id),)
    min_new = protocol.min_new_tokens
    if task.name in protocol.newline_stop:
        ids = (*eos_ids, encode(tokenizer, "\n", special=False)[-1])
        min_new = max(min_new, 1)
    elif protocol.eos == "generation_config" and eos_token_ids:
        ids = tuple(eos_token_ids)
    else:
        ids = eos_ids
    ids = (*ids, *protocol.stop_ids)
    return StopRule(tuple(dict.fromkeys(ids)), min_new, answer_length(protocol, dataset, templates))


def answer_length(protocol: Protocol, dataset: str, templates: Templates) -> int:
    """Tokens of an answer, at most."""
    length = protocol.max_new_tokens
    if isinstance(length, tuple):
        length = dict(length).get(get_task(dataset).name)
    return (templates.max_new_tokens(dataset) if length is None else length) + protocol.extra_new_tokens


def finish_prediction(protocol: Protocol, text: str, dataset: str = "") -> str:
    """What the protocol's released code does to the generated text before it is judged."""
    for marker in (*protocol.cut_at, *(marker for name, marker in protocol.cut_datasets if name == dataset)):
        text = text.split(marker)[0]
    return text.strip() if protocol.strip else text
