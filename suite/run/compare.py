"""One prompt under several methods: the tokens that each kept, its answer, and whether it equals the full cache's.

All methods share one prefill and decode together. A method that cannot meet the budget, or lacks the profile it needs,
is in the result with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cokv.decode.decode import Stop
from cokv.methods.method import Method
from cokv.methods.registry import METHODS, get_method
from cokv.model.chat import has_chat_template, user_turn
from cokv.model.loading import LoadedModel
from cokv.types import CokvError, KVBudget, Selection
from suite.errors import SuiteError
from suite.profiles.profile_folder import SourcedProfile
from suite.run.answers import Request, answer
from suite.tasks.prompt import text_of
from suite.text_files import read_text


@dataclass(frozen=True)
class Compared:
    """One method on the prompt. `infeasible`: why there is no selection and no answer; "" if there are."""

    method: Method
    selection: Selection | None = None
    answer: str = ""
    generated_tokens: int = 0
    kept_bytes: int = 0
    infeasible: str = ""
    profile: str = ""  # where the method's profile comes from, if it needs one


@dataclass(frozen=True)
class Comparison:
    """The full cache, and the methods in the order requested."""

    kv_budget: int | str  # slots per head, or a share of the prompt
    kv_slots: int  # the budget on this prompt, in slots per head
    seq_len: int
    full_bytes: int
    full: Compared
    methods: tuple[Compared, ...]
    chat: bool = False  # the prompt is wrapped in the model's chat template
    template_unused: bool = False  # the model has one, and the prompt is bare

    def same(self, row: Compared) -> bool:
        """Whether a method's answer equals the full cache's."""
        return not row.infeasible and row.answer == self.full.answer

    def why_none_ran(self, names: str) -> str:
        """Why none of the methods in `names` could run; "" where one did.

        The full cache, which always runs, counts where `names` lists it; `all` means the other methods.
        """
        failed = [row for row in self.methods if row.infeasible]
        if not failed or len(failed) < len(self.methods) or (names != "all" and "full" in _listed(names)):
            return ""
        several = f"none of the {len(failed)} methods could run; " if len(failed) > 1 else ""
        return several + "; ".join(f"{row.method.name}: {row.infeasible}" for row in failed[:3])

    def as_json(self) -> dict[str, Any]:
        def row_json(row: Compared) -> dict[str, Any]:
            spec = row.method.spec()
            if row.selection is None:
                return {**spec, "infeasible": row.infeasible}
            return {
                **spec,
                "infeasible": None,
                "answer": row.answer,
                "same_as_full": self.same(row),
                "generated_tokens": row.generated_tokens,
                "kept_tokens": row.selection.total,
                "kept_bytes": row.kept_bytes,
                "counts": row.selection.counts.tolist(),
                **({"profile": row.profile} if row.profile else {}),
            }

        return {
            "kv_budget": self.kv_budget,
            "kv_slots": self.kv_slots,
            "prompt_tokens": self.seq_len,
            "chat": self.chat,
            "full_bytes": self.full_bytes,
            "methods": [row_json(row) for row in (self.full, *self.methods)],
        }


def read_prompt(path: Path) -> str:
    """A file's text, without the one newline that editors put at its end."""
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise SuiteError(f"no prompt file {path}; check the path") from None
    except IsADirectoryError:
        raise SuiteError(f"{path} is a folder; name a text file") from None
    text = text.removesuffix("\n")
    if not text.strip():
        raise SuiteError(f"prompt file {path} is empty; put the prompt into it")
    return text


def methods_by_names(names: str, params: Sequence[str]) -> list[Method]:
    """Methods of a comma-separated list, or `all` of the registry. Each `name=value` applies to all that have it."""
    listed = list(METHODS) if names == "all" else _listed(names)
    if not listed or len(set(listed)) < len(listed):
        raise SuiteError(f"methods are {names!r}; expected `all`, or names separated by commas, each once")
    values = dict(_parameter(text) for text in params)
    parameters = {name: get_method(name).parameters for name in listed}
    for key in values:
        if not any(key in known for known in parameters.values()):
            valid = sorted({name for known in parameters.values() for name in known})
            raise SuiteError(f"parameter {key!r} is known to none of these methods; expected one of {', '.join(valid)}")
    return [get_method(name, **{k: v for k, v in values.items() if k in known}) for name, known in parameters.items()]


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SuiteError(f"parameter {text!r}, expected name=value such as window_size=8")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def compare(
    loaded: LoadedModel,
    text: str,
    methods: Sequence[Method],
    kv_budget: KVBudget | int | str,
    max_new_tokens: int,
    profiles: Mapping[str, SourcedProfile | str] | None = None,
    chat: bool = False,
) -> Comparison:
    """Answers of the full cache and of every method to one prompt. profiles: by method name, or why there is none.

    chat: the text is the user's turn of the model's own chat template.
    """
    profiles, kv_budget = profiles or {}, KVBudget.parse(kv_budget)
    if chat and not has_chat_template(loaded.tokenizer):
        raise SuiteError(f"model {loaded.name!r} has no chat template; leave --chat out, or name an instruct model")
    if chat:
        text = user_turn(loaded.tokenizer, text)
    encoded = loaded.tokenizer(text, **({"add_special_tokens": False} if chat else {}))
    ids = torch.tensor(encoded["input_ids"], dtype=torch.int64)
    if ids.numel() + max_new_tokens > loaded.shape.context_length:
        raise SuiteError(
            f"the prompt has {ids.numel()} tokens, with {max_new_tokens} of an answer more than the model's "
            f"{loaded.shape.context_length} positions; shorten the prompt, or lower --max-new-tokens"
        )
    full = get_method("full")
    rows: list[Compared] = []
    requests: dict[int, Request] = {}  # by index in `rows`
    for method in (full, *(method for method in methods if method.name != "full")):
        source = profiles.get(method.name, f"needs {method.profile}") if method.needs_profile else None
        budget = kv_budget if method.takes_budget else None
        try:
            if isinstance(source, str):
                raise CokvError(source)
            profile: Any = source.profile if source else None
            method.check(budget, loaded.shape.num_layers, loaded.shape.num_kv_heads, profile)
        except CokvError as error:
            rows.append(Compared(method, infeasible=str(error).removeprefix(f"{method.name}: ")))
            continue
        requests[len(rows)] = Request(method, budget, profile)
        rows.append(Compared(method, profile=source.origin if source else ""))
    read, results = answer(loaded, ids, list(requests.values()), Stop(max_new_tokens, loaded.eos_ids))
    for i, result in zip(requests, results, strict=True):
        if result.row is None or result.decoded is None:
            rows[i] = replace(rows[i], infeasible=result.infeasible.removeprefix(f"{rows[i].method.name}: "))
            continue
        assert isinstance(result.row.selection, Selection)
        rows[i] = replace(
            rows[i],
            selection=result.row.selection,
            answer=text_of(loaded, result.decoded.tokens),
            generated_tokens=len(result.decoded.tokens),
            kept_bytes=result.decoded.kept_bytes,
        )
    slots = kv_budget.of(read.seq_len)
    unused = not chat and has_chat_template(loaded.tokenizer)
    return Comparison(
        kv_budget.nominal, slots, read.seq_len, read.full_bytes, rows[0], tuple(rows[1:]), chat, template_unused=unused
    )
