"""U(S): how well the model answers when only the heads of S keep the whole prompt.

Players are (layer, KV head) pairs, layer-major. The prompt is prefilled once with full attention; then heads outside
S keep its last `window_size` tokens, all heads keep their generated tokens, and the answer is decoded greedily and
judged by the task's own metric: the game of CoKV (arXiv 2502.17501, section 3). The first answer token comes from the
uncompressed prefill, as in the released code. Knows no task: a prompt comes with a function that judges a text's
tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from cokv.decode import Row, Stop, decode
from cokv.game.plan import BoolArray
from cokv.prefill import Prefill
from cokv.types import CokvError, FloatArray, Selection


@dataclass(frozen=True, eq=False)
class GamePrompt:
    """One validation prompt: its prefill, when its answer ends, and what its tokens are worth (0 to 1)."""

    prefill: Prefill
    stop: Stop
    judge: Callable[[list[int]], float]


def coalition_selection(members: BoolArray, prefill: Prefill, window_size: int) -> Selection:
    """Members (bool [num_layers * num_kv_heads]) keep all positions, the others the last `window_size`."""
    shape = (prefill.shape.num_layers, prefill.shape.num_kv_heads)
    if members.shape != (shape[0] * shape[1],):
        raise CokvError(
            f"coalition of shape {list(members.shape)}, "
            f"expected one bool for each of {shape[0]} layers x {shape[1]} KV heads"
        )
    mask = torch.from_numpy(members.reshape(shape).copy())[:, :, None].expand(*shape, prefill.seq_len).clone()
    mask[..., max(prefill.seq_len - window_size, 0) :] = True
    return Selection.from_mask(mask)


@dataclass(frozen=True, eq=False)
class HeadGame:
    """A game over KV heads. Called, it gives the mean utility over prompts; `per_prompt` gives what that is made of."""

    model: PreTrainedModel
    prompts: Sequence[GamePrompt]
    window_size: int = 8
    max_bytes: int = 1 << 28

    def __post_init__(self) -> None:
        if not self.prompts:
            raise CokvError("a game over no prompts has no utility; give at least one validation prompt")

    @property
    def num_players(self) -> int:
        shape = self.prompts[0].prefill.shape
        return shape.num_layers * shape.num_kv_heads

    def per_prompt(self, coalitions: BoolArray) -> FloatArray:
        """Utilities [coalitions, prompts] of coalitions bool [coalitions, players]."""
        utilities = np.empty((len(coalitions), len(self.prompts)))
        for column, prompt in enumerate(self.prompts):
            rows = (Row(coalition_selection(c, prompt.prefill, self.window_size)) for c in coalitions)
            answers = decode(self.model, prompt.prefill, rows, prompt.stop, way="shared", max_bytes=self.max_bytes)
            utilities[:, column] = [prompt.judge(answer.tokens) for answer in answers]
        return utilities

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        means: FloatArray = self.per_prompt(coalitions).mean(axis=1)
        return means
