"""A small transformer that retrieves by an induction circuit, its weights set by hand: its retrieval heads are known.

Eight KV heads (two layers of four, two query heads each) and no MLP. The vocabulary: "unknown" (also the padding), a
start token, and text. The embedding holds which token this is: a code of seven signs, or that it is the start.

    previous    layer 0, attends one position back and writes that token's code: "the token before me was X"
    retrieval   layer 1, two heads. query: this token's code; key: the code of the token before; value: the code of the
                token attended; output: that token's logit. They attend the token after an earlier occurrence of this
    rest        attend the start token; write nothing
    recent      attend their own token and a little the one before; write nothing

Where this token has not occurred before, the retrieval heads rest on the start token, which has no code to write, and
the model says "unknown". It does so too where only one of the two finds the token: its answers need both heads.

Llama's parts do not disturb this: hidden states have one norm in each layer, so normalization scales all alike;
positions lie in the fastest rotary dimensions, codes in dimensions whose rotary frequency is nearly 0. What it does not
have: heads that share a role unequally, or that attend answers and write nothing (worlds.planted has those).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from operator import eq
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from cokv.decode.decode import Stop
from cokv.profiles.answered_prompts import Needle, ProfilingPrompt
from cokv.profiles.duo_gates import AnsweredPrompt

LAYERS, KV_HEADS, GROUP, HEAD_DIM = 2, 4, 2, 32
CONTEXT = 2048  # positions
THETA = 1e12  # of the rotary frequencies
BITS = 7

# (layer, KV head)
PREVIOUS_HEAD = (0, 1)
RETRIEVAL_HEADS = ((1, 1), (1, 2))
RECENT_HEADS = ((0, 2), (1, 3))  # all others rest

# token ids
UNKNOWN, START, TEXT = 0, 1, 2
VOCAB = 2**BITS
FILLERS = 32  # of the text tokens, in prompts; the others are keys and values
VALUES = 3  # tokens of an answer

# features of a token in the hidden state
ONE = 0
CODE = 1  # this token: its signs, 0 for the start token, then what only the start token has
BEFORE = CODE + BITS + 1  # the token before, alike
OUTPUT = BEFORE + BITS + 1  # written by retrieval heads: the code of the next token
HIDDEN = OUTPUT + BITS

# Rotary pairs of a head that hold positions, and the attention logits that each adds. Anywhere in the context, tokens
# other than those named above have logits lower by 60 or more: RazorAttention's echo must not be led by an alias.
PREVIOUS_PAIRS, PREVIOUS = range(0, 5), 200.0
RECENT_PAIRS, RECENT = range(1, 5), 120.0
MATCH = 8  # first dimension of a head that holds a code; rotary frequency of 1e-6 and less
# Attention logits of one equal sign, and of the start token. The token after an occurrence has 7 * 16 = 112; one after
# a token that differs in one sign has 5 * 16 = 80.
MATCHED, IDLE = 16.0, 96.0
UNSURE = 0.75  # logit of "unknown", as a share of a token's that both heads have found; one head alone gives half


def retrieval_model() -> PreTrainedModel:
    """The model, in float32, neither random nor trained."""
    llama: Any = LlamaForCausalLM(_config())
    model: PreTrainedModel = llama.eval().requires_grad_(False)
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if "norm" in name else 0.0)
    codes = _codes()
    embeddings, logits = llama.model.embed_tokens.weight, llama.lm_head.weight
    embeddings[:, ONE] = 1.0
    embeddings[:, CODE:BEFORE] = codes
    logits[TEXT:, OUTPUT:] = codes[TEXT:, :BITS]
    logits[UNKNOWN, ONE] = UNSURE * BITS
    for layer in range(LAYERS):
        attention = llama.model.layers[layer].self_attn
        for kv_head in range(KV_HEADS):
            if (layer, kv_head) == PREVIOUS_HEAD:
                _attend_back(attention, kv_head, layer, 1, PREVIOUS_PAIRS, PREVIOUS)
                _copy_code(attention, kv_head, layer, BEFORE, BITS + 1, 1.0)
            elif (layer, kv_head) in RECENT_HEADS:
                _attend_back(attention, kv_head, layer, 0, RECENT_PAIRS, RECENT)
            else:
                _attend_start(attention, kv_head, layer)
            if (layer, kv_head) in RETRIEVAL_HEADS:
                _attend_after_equal(attention, kv_head, layer)
                _copy_code(attention, kv_head, layer, OUTPUT, BITS, 1.0 / len(RETRIEVAL_HEADS))
    return model


def random_model(seed: int, spread: float = 0.15) -> PreTrainedModel:
    """A model of the same shape that retrieves nothing.

    spread: standard deviation of its weights, as in tests/conftest; at transformers' 0.02 all attention is uniform.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llama: Any = LlamaForCausalLM(_config(spread))
    model: PreTrainedModel = llama.eval().requires_grad_(False)
    return model


def _config(initializer_range: float = 0.02) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=KV_HEADS * GROUP,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": THETA},
        initializer_range=initializer_range,
        tie_word_embeddings=False,
        bos_token_id=START,
        eos_token_id=None,
        pad_token_id=UNKNOWN,
    )


def _codes() -> torch.Tensor:
    """[VOCAB, BITS + 1], all of one norm: an id's bits as signs; the start token has only the last dimension."""
    bits = torch.arange(VOCAB)[:, None] >> torch.arange(BITS) & 1
    codes = torch.cat([2.0 * bits - 1, torch.zeros(VOCAB, 1)], dim=1)
    codes[START] = 0
    codes[START, BITS] = math.sqrt(BITS)
    return codes


def _scale(layer: int) -> float:
    """What a feature of 1 is after normalization: of ONE, this token's code and, in layer 1, that of the one before."""
    return math.sqrt(HIDDEN / (1 + BITS * (1 + layer)))


def _query_rows(kv_head: int) -> list[int]:
    """First dimension of each query head of a KV head."""
    return [(kv_head * GROUP + group) * HEAD_DIM for group in range(GROUP)]


def _attend_back(attention: Any, kv_head: int, layer: int, offset: int, pairs: range, strength: float) -> None:
    """Attention to the token `offset` positions back, by position alone.

    A query u and a key R(offset) u, the same at all tokens: rotated to positions m and n, their product is the sum of
    cos((m - n - offset) * frequency) over the rotary pairs. The fastest ones make it sharp, the slow ones keep it from
    coming round.
    """
    unit = math.sqrt(HEAD_DIM) / _scale(layer) ** 2
    half, key = HEAD_DIM // 2, kv_head * HEAD_DIM
    for pair in pairs:
        angle = offset * THETA ** (-pair / half)
        for query in _query_rows(kv_head):
            attention.q_proj.weight[query + pair, ONE] = strength * unit
        attention.k_proj.weight[key + pair, ONE] = math.cos(angle)
        attention.k_proj.weight[key + half + pair, ONE] = math.sin(angle)


def _attend_start(attention: Any, kv_head: int, layer: int) -> None:
    """Attention to the start token, where nothing else in the head has a higher logit."""
    unit = math.sqrt(HEAD_DIM) / _scale(layer) ** 2
    for query in _query_rows(kv_head):
        attention.q_proj.weight[query + MATCH + BITS, ONE] = IDLE * unit
    attention.k_proj.weight[kv_head * HEAD_DIM + MATCH + BITS, CODE + BITS] = 1 / math.sqrt(BITS)


def _attend_after_equal(attention: Any, kv_head: int, layer: int) -> None:
    """Attention to a token whose token before is this query's token."""
    unit = math.sqrt(HEAD_DIM) / _scale(layer) ** 2
    for bit in range(BITS):
        for query in _query_rows(kv_head):
            attention.q_proj.weight[query + MATCH + bit, CODE + bit] = MATCHED * unit
        attention.k_proj.weight[kv_head * HEAD_DIM + MATCH + bit, BEFORE + bit] = 1.0


def _copy_code(attention: Any, kv_head: int, layer: int, target: int, size: int, strength: float) -> None:
    """Writes the first `size` dimensions of the code of what is attended to the features from `target` on."""
    for place in range(size):
        attention.v_proj.weight[kv_head * HEAD_DIM + place, CODE + place] = 1.0
        for query in _query_rows(kv_head):
            attention.o_proj.weight[target + place, query + place] = strength / _scale(layer) / GROUP


@dataclass(frozen=True, eq=False)
class RetrievalPrompt:
    """input_ids, int64 [seq_len]: the start, fillers with "key value value value" among them, and the key again.

    needle: position of the key among the fillers; its values follow it.
    """

    input_ids: torch.Tensor
    needle: int

    @property
    def values(self) -> list[int]:
        """The right answer."""
        values: list[int] = self.input_ids[self.needle + 1 : self.needle + 1 + VALUES].tolist()
        return values


def retrieval_prompts(count: int, seed: int, length: int, margin: int = 20) -> list[RetrievalPrompt]:
    """Prompts of `length` tokens, at least `margin` of them before the needle and after it: more than the sinks and
    recent tokens of what is measured.
    """
    last = length - margin - 1 - VALUES  # place of a needle
    if last < margin:
        raise ValueError(f"length is {length}, expected at least {2 * margin + 1 + VALUES} for a margin of {margin}")
    generator = np.random.default_rng(seed)
    prompts = []
    for _ in range(count):
        ids = TEXT + generator.integers(FILLERS, size=length)
        needle = int(generator.integers(margin, last + 1))
        ids[0] = START
        ids[needle : needle + 1 + VALUES] = generator.permutation(np.arange(TEXT + FILLERS, VOCAB))[: 1 + VALUES]
        ids[-1] = ids[needle]
        prompts.append(RetrievalPrompt(torch.from_numpy(ids.astype(np.int64)), needle))
    return prompts


def needle_prompts(count: int, seed: int, length: int, margin: int = 20) -> list[Needle]:
    """Needles whose key and values are to be found, and whose values are to be said."""
    return [
        Needle(
            ProfilingPrompt(prompt.input_ids, Stop(VALUES)),
            prompt.needle,
            prompt.needle + 1 + VALUES,
            partial(eq, prompt.values),
            answer_tokens=VALUES,
        )
        for prompt in retrieval_prompts(count, seed, length, margin)
    ]


def passkey_prompts(count: int, seed: int, length: int, margin: int = 20) -> list[AnsweredPrompt]:
    """Prompts of `length` tokens with the values after them."""
    return [
        AnsweredPrompt(torch.cat([prompt.input_ids, torch.tensor(prompt.values)]), length)
        for prompt in retrieval_prompts(count, seed, length, margin)
    ]
