"""A small transformer whose KV heads have known roles, its weights set by hand: the game `everything` of
worlds.role_games, played by a model through the engine.

Eight KV heads (two layers of four, two query heads each) and no MLP. The vocabulary: a start token, "unknown", fillers,
questions, asks, and values in four classes. A prompt is the start, fillers with one value of each class somewhere among
them, more fillers than any window holds, and a question. After a question the model emits the ask of its kind, by its
embedding alone; that token comes from the prefill. After an ask it emits the value, which its heads must retrieve:

    query: the class that this head attends to when it reads this ask; else the start token
    key: the token's class;  value: which value it is;  output: that value's logit, with the strength of the head

"unknown" has the logit 1, so a value is emitted when the heads that attend it add more: a carrier or a substitute 2, a
complement 0.6, the harmful head 5 to a wrong one. The onlooker attends every answer and writes nothing.

Llama's parts do not disturb this: embeddings have one norm, so normalization scales all alike; classes lie in
dimensions whose rotary frequency is nearly 0; logits are compared at one position, so their common scale is free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cokv.cache.prefill import prefill
from cokv.decode.decode import Stop
from cokv.game.utility import GamePrompt, HeadGame
from cokv.types import FloatArray

LAYERS, KV_HEADS, GROUP, HEAD_DIM, HIDDEN = 2, 4, 2, 32, 64
CLASSES, VALUES, FILLERS = 4, 4, 8  # values per class; the last class are decoys
QUESTIONS = ("carrier", "complements", "substitutes", "spoiled")
ANSWER_CLASS = (0, 1, 2, 0)  # of each question
DECOY = 3

# token ids
START, UNKNOWN, FILLER = 1, 2, 3
QUESTION = FILLER + FILLERS
ASK = QUESTION + len(QUESTIONS)
VALUE = ASK + len(QUESTIONS)
VOCAB = VALUE + CLASSES * VALUES

# features of a token in the hidden state
ONE, IS_START = 0, 1
OF_QUESTION = 2
OF_ASK = OF_QUESTION + len(QUESTIONS)
OF_CLASS = OF_ASK + len(QUESTIONS)
OF_VALUE = OF_CLASS + CLASSES
OUTPUT = OF_VALUE + CLASSES * VALUES  # written by heads only
REST = OUTPUT + CLASSES * VALUES  # brings every embedding to one norm

NORM = 2.0
MATCH = 10  # first dimension of a head that holds classes; rotary frequency below 1e-7
MATCHED, IDLE = 60.0, 30.0  # attention logits of a token of the class, and of the start token


@dataclass(frozen=True)
class PlantedHead:
    """attends: per question the class of this head's attention, None for the start token. strength: logit it adds."""

    attends: tuple[int | None, ...]
    strength: float


HEADS = (  # the roles of worlds.EVERYTHING_ROLES, in order
    PlantedHead((0, None, None, 0), 2.0),
    PlantedHead((None, 1, None, None), 0.6),
    PlantedHead((None, 1, None, None), 0.6),
    PlantedHead((None, None, 2, None), 2.0),
    PlantedHead((None, None, 2, None), 2.0),
    PlantedHead((None, None, None, DECOY), 5.0),
    PlantedHead(ANSWER_CLASS, 0.0),
    PlantedHead((None, None, None, None), 0.0),
)


def planted_model() -> PreTrainedModel:
    """The model, in float32, neither random nor trained."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=KV_HEADS * GROUP,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 1e12},
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    llama: Any = LlamaForCausalLM(config)
    model: PreTrainedModel = llama.eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if "norm" in name else 0.0)
    llama.model.embed_tokens.weight.copy_(_embeddings())
    llama.lm_head.weight.copy_(_logits())
    for player, head in enumerate(HEADS):
        _plant(llama.model.layers[player // KV_HEADS].self_attn, player % KV_HEADS, head)
    return model


def _embeddings() -> torch.Tensor:
    weight = torch.zeros(VOCAB, HIDDEN)
    weight[:, ONE] = 1.0
    weight[START, IS_START] = 1.0
    for kind in range(len(QUESTIONS)):
        weight[QUESTION + kind, OF_QUESTION + kind] = 1.0
        weight[ASK + kind, OF_ASK + kind] = 1.0
    for token in range(CLASSES * VALUES):
        weight[VALUE + token, OF_CLASS + token // VALUES] = 1.0
        weight[VALUE + token, OF_VALUE + token] = 1.0
    weight[:, REST] = (NORM**2 - weight.square().sum(dim=1)).sqrt()
    return weight


def _logits() -> torch.Tensor:
    weight = torch.zeros(VOCAB, HIDDEN)
    weight[UNKNOWN, ONE] = 1.0
    for kind in range(len(QUESTIONS)):
        weight[ASK + kind, OF_QUESTION + kind] = 10.0
    for token in range(CLASSES * VALUES):
        weight[VALUE + token, OUTPUT + token] = 1.0
    return weight


def _plant(attention: Any, kv_head: int, head: PlantedHead) -> None:
    """Writes one KV head and its query heads, all alike, into a layer whose weights are 0."""
    scale = math.sqrt(HIDDEN) / NORM  # of features after normalization
    unit = math.sqrt(HEAD_DIM) / scale**2  # of a query weight that makes an attention logit of 1
    start = MATCH + CLASSES
    first = kv_head * HEAD_DIM
    for group in range(GROUP):
        query = (kv_head * GROUP + group) * HEAD_DIM
        attention.q_proj.weight[query + start, ONE] = IDLE * unit
        for kind, target in enumerate(head.attends):
            if target is not None:
                attention.q_proj.weight[query + MATCH + target, OF_ASK + kind] = MATCHED * unit
        for token in range(CLASSES * VALUES):
            attention.o_proj.weight[OUTPUT + token, query + token] = head.strength / scale / GROUP
    attention.k_proj.weight[first + start, IS_START] = 1.0
    for target in range(CLASSES):
        attention.k_proj.weight[first + MATCH + target, OF_CLASS + target] = 1.0
    for token in range(CLASSES * VALUES):
        attention.v_proj.weight[first + token, OF_VALUE + token] = 1.0


@dataclass(frozen=True, eq=False)
class PlantedPrompt:
    """A question, its answer, and the answer's position in the prompt."""

    kind: int
    input_ids: torch.Tensor  # int64 [seq_len]
    answer: int
    needle: int


def planted_prompts(per_question: int, seed: int, body: int = 28, tail: int = 12) -> list[PlantedPrompt]:
    """Prompts of every kind of question. `tail`: fillers after the last value, more than the window of the game."""
    generator = np.random.default_rng(seed)
    prompts = []
    for _ in range(per_question):
        for kind, answer_class in enumerate(ANSWER_CLASS):
            ids = FILLER + generator.integers(FILLERS, size=1 + body + tail)
            ids[0] = START
            places = 1 + generator.permutation(body)[:CLASSES]
            ids[places] = VALUE + VALUES * np.arange(CLASSES) + generator.integers(VALUES, size=CLASSES)
            prompt = torch.from_numpy(np.append(ids, QUESTION + kind).astype(np.int64))
            needle = int(places[answer_class])
            prompts.append(PlantedPrompt(kind, prompt, int(ids[needle]), needle))
    return prompts


def planted_game(model: PreTrainedModel, prompts: list[PlantedPrompt], window_size: int = 8) -> HeadGame:
    """The head game on these prompts: 1 where the second token is the answer, else 0."""

    def game_prompt(prompt: PlantedPrompt) -> GamePrompt:
        return GamePrompt(
            prefill(model, prompt.input_ids), Stop(2), lambda tokens: float(tokens[1:] == [prompt.answer])
        )

    return HeadGame(model, [game_prompt(prompt) for prompt in prompts], window_size)


def attention_on_needle(model: PreTrainedModel, prompts: list[PlantedPrompt]) -> FloatArray:
    """Retrieval score of every KV head [num_layers * num_kv_heads], from attention alone.

    The share of prompts in which the model emits the answer and the head's attention is then highest on it; of a KV
    head, the largest of its query heads. Idea: Wu et al., "Retrieval Head Mechanistically Explains Long-Context
    Factuality" (arXiv 2404.15574), whose scores HeadKV (arXiv 2410.19258) builds on.
    """
    hits = np.zeros((LAYERS, KV_HEADS * GROUP))
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        for prompt in prompts:
            ids = torch.cat([prompt.input_ids, torch.tensor([ASK + prompt.kind])])[None]
            with torch.no_grad():
                out = model(ids, output_attentions=True)
            if int(out.logits[0, -1].argmax()) == prompt.answer:
                attended = torch.stack([layer[0, :, -1].argmax(dim=-1) for layer in out.attentions])
                hits += (attended == prompt.needle).numpy()
    finally:
        model.set_attn_implementation(implementation)
    return np.asarray((hits / len(prompts)).reshape(LAYERS * KV_HEADS, GROUP).max(axis=1))
