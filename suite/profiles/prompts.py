"""Prompts of the profilers as token ids: needles with their positions, passkeys with their answers.

Needles come from RULER's generators, in the experiment's preset, at sample numbers that neither test samples nor the
head game use. LU-KV's prompts are the tasks' own validation prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from cokv.decode.decode import Stop
from cokv.model.loading import LoadedModel
from cokv.profiles.answered_prompts import Needle, ProfilingPrompt
from cokv.profiles.duo_gates import AnsweredPrompt
from cokv.types import CokvError
from ruler import generate as ruler_generate
from ruler.generate import wording
from ruler.niah import needle_span
from ruler.sample import Sample
from ruler.scoring import score
from suite.spec import Chat, Experiment, ProfilesSpec, RulerSpec
from suite.tasks.benchmarks import task_names, validation_prompts
from suite.tasks.prompt import VALIDATION_OFFSET, continuation, text_of
from suite.tasks.ruler_text import RulerText

NEEDLES = ("niah_single_1", "niah_single_2", "niah_multikey_1")
PASSKEYS = ("niah_multikey_1", "niah_multivalue", "niah_multiquery")
OFFSET = 2 * VALIDATION_OFFSET
LENGTH = 4096  # of needle prompts, where neither [profiles] nor a generated benchmark states one


def needle_spec(experiment: Experiment, tasks: Sequence[str] = NEEDLES, length: int | None = None) -> RulerSpec:
    """The needles to generate, with the experiment's preset, length and texts where it has them."""
    spec = experiment.profiles or ProfilesSpec()
    generated = experiment.ruler or experiment.longbench_mini
    preset = "mini" if experiment.longbench_mini is not None else "official"
    return RulerSpec(
        preset=experiment.ruler.preset if experiment.ruler is not None else preset,  # type: ignore[arg-type]
        length=length or spec.length or (generated.length if generated is not None else LENGTH),
        tasks=tuple(tasks),
        samples=spec.prompts,
        essays=experiment.ruler.essays if experiment.ruler is not None else None,
        chat=_chat(experiment),
    )


def _chat(experiment: Experiment) -> Chat:
    """Profiles are measured on prompts like the tasks' own: in the chat template where those are."""
    if experiment.ruler is not None:
        return experiment.ruler.chat
    if experiment.longbench is not None:
        return "never" if experiment.longbench.resolved().chat == "never" else "task"
    return "never" if experiment.needle is None else experiment.needle.chat


def needle_prompts(experiment: Experiment, loaded: LoadedModel) -> list[Needle]:
    """Prompts with one answer, which occurs in the context once. The needle is the sentence that holds it."""
    needles = []
    spec = needle_spec(experiment)
    text = RulerText.of(spec, loaded.tokenizer)
    for sample in _samples(experiment, text, spec):
        ids, places = _tokens_at(text, sample, *needle_span(sample.context, sample.outputs[0], wording()))
        stop = Stop(sample.tokens_to_generate, loaded.eos_ids)

        def right(tokens: list[int], sample: Sample = sample) -> bool:
            return score(sample.metric, text_of(loaded, tokens), sample.outputs) > 50

        needles.append(
            Needle(ProfilingPrompt(ids, stop), places[0], places[-1] + 1, right, _answer_tokens(loaded, sample))
        )
    return needles


def _answer_tokens(loaded: LoadedModel, sample: Sample) -> int:
    """Tokens of the right answer after the prompt: with a space before it, without anything after it."""
    answer = sample.outputs[0]
    gold = sample.gold or f" {answer}"
    through_answer = gold[: gold.index(answer) + len(answer)] if answer in gold else answer
    return len(continuation(loaded.tokenizer, sample.answer_prefix, through_answer))


def passkey_prompts(experiment: Experiment, loaded: LoadedModel, length: int | None) -> list[AnsweredPrompt]:
    """Prompts for several values, each followed by its full right answer."""
    prompts = []
    spec = needle_spec(experiment, PASSKEYS, length)
    text = RulerText.of(spec, loaded.tokenizer)
    for sample in _samples(experiment, text, spec):
        ids = text.begin(text.whole(sample))
        gold = continuation(loaded.tokenizer, sample.answer_prefix, sample.gold or " ".join(sample.outputs))
        prompts.append(AnsweredPrompt(torch.cat([ids, torch.tensor(gold, dtype=torch.int64)]), len(ids)))
    return prompts


def profiling_prompts(experiment: Experiment, loaded: LoadedModel, count: int) -> list[ProfilingPrompt]:
    """`count` validation prompts of every task."""
    return [
        ProfilingPrompt(prompt.context_ids, prompt.stop, prompt.question_ids)
        for task in task_names(experiment)
        for prompt in validation_prompts(experiment, loaded, task, count)
    ]


def _samples(experiment: Experiment, text: RulerText, spec: RulerSpec) -> Iterator[Sample]:
    seed = (experiment.profiles or ProfilesSpec()).seed
    tokenizer: Any = text.tokenizer
    sources = ruler_generate.Sources.read(spec.essays)
    for task in spec.tasks:
        yield from ruler_generate.generate(
            task, tokenizer, spec.length, spec.samples, seed, spec.preset, sources, OFFSET, as_read=text.whole
        )


def _tokens_at(text: RulerText, sample: Sample, start: int, end: int) -> tuple[torch.Tensor, list[int]]:
    """Token ids of a sample's prompt, and the positions of those that hold characters start..end of its context."""
    tokenizer: Any = text.tokenizer
    if not tokenizer.is_fast:
        raise CokvError("this model's tokenizer does not tell where a token stands in a text; use a fast tokenizer")
    before, after = text.parts(sample)
    shift = len(before) - len(sample.context)  # the context stands at the end of its part
    start, end = start + shift, end + shift
    encoded = tokenizer(before + after, return_offsets_mapping=True, add_special_tokens=text.adds_specials(before))
    places = [place for place, (a, b) in enumerate(encoded["offset_mapping"]) if a < end and b > start]
    return torch.tensor(encoded["input_ids"], dtype=torch.int64), places
