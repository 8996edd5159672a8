"""U(S): how well the model answers when only the players of S keep the whole prompt.

The prompt is prefilled once with full attention; then players outside S keep its last `window_size` tokens, all keep
their generated tokens, and the answer is judged: the game of CoKV (arXiv 2502.17501, section 3), whose players are KV
heads, whose utility is the task's own metric of the greedy answer, and whose first answer token comes from the
uncompressed prefill. Knows no task: a prompt comes with a function that judges a text's tokens, or with the answer.

| utility | of a coalition | needs |
|---|---|---|
| metric | the task's metric of the greedy answer | `judge` |
| exact_match | 1 where greedy decoding begins with the given answer, else 0 | `answer` |
| probability | mean probability of the answer's tokens, each given those before it | `answer` |
| log_likelihood | sum of their log-probabilities | `answer` |

The last three are teacher-forced: one forward pass, no decoding. A utility does not depend on which coalitions are
evaluated with it, but for the rounding of matrix products of another size: in float32 a token, and with it "metric" or
"exact_match", could differ only where its logit is within about 1e-6 of the best one; the other two by about as much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from transformers import PreTrainedModel

from cokv.cache.prefill import Prefill
from cokv.decode.batches import AnyWay
from cokv.decode.decode import Stop, decode
from cokv.decode.session import FirstToken
from cokv.game.plan import BoolArray
from cokv.game.players import Players, coalition_rows, grid
from cokv.game.prefills import on_device
from cokv.game.teacher_forcing import ForcedAnswer, teacher_force
from cokv.model.shape import model_shape
from cokv.types import CokvError, FloatArray

Utility = Literal["metric", "exact_match", "probability", "log_likelihood"]


@dataclass(frozen=True, eq=False)
class GamePrompt:
    """One validation prompt: its prefill, when its answer ends, and what its tokens are worth (0 to 1).

    `prefill` may be a function that returns one, such as a PrefillStore's handle. `answer`: token ids of the right
    answer as greedy decoding would emit it, with its stop token if it has one; only teacher-forced utilities need it.
    """

    prefill: Prefill | Callable[[], Prefill]
    stop: Stop
    judge: Callable[[list[int]], float]
    answer: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class HeadGame:
    """A game over heads or layers. Called, it returns the mean utility over prompts; `per_prompt` returns each.

    `way`: how rows are decoded; no choice changes a utility.
    """

    model: PreTrainedModel
    prompts: Sequence[GamePrompt]
    window_size: int = 8
    max_bytes: int = 1 << 28
    utility: Utility = "metric"
    players: Players = "kv_head"
    first_token: FirstToken = "prefill"
    way: AnyWay = "auto"

    def __post_init__(self) -> None:
        if not self.prompts:
            raise CokvError("a game over no prompts has no utility; give at least one validation prompt")
        for name, value, choices in (
            ("utility", self.utility, get_args(Utility)),
            ("first_token", self.first_token, get_args(FirstToken)),
            ("way", self.way, get_args(AnyWay)),
        ):
            if value not in choices:
                raise CokvError(f"unknown {name} {value!r}; expected one of {', '.join(choices)}")
        shape = model_shape(self.model.config)
        grid(shape, self.players)
        if self.players == "query_head" and self.way == "ragged" and shape.group_size > 1:
            raise CokvError(
                "players 'query_head' with way 'ragged': query heads share a KV head's storage, and only the shared "
                "ways can mask them one by one; use way 'auto', 'trie' or 'shared'"
            )
        unknown = sum(prompt.answer is None for prompt in self.prompts)
        if self.utility != "metric" and unknown:
            raise CokvError(
                f"utility {self.utility!r} reads the right answer, which {unknown} of {len(self.prompts)} prompts do "
                "not have; give `answer` (token ids) with every GamePrompt, or use utility 'metric'"
            )

    @property
    def num_players(self) -> int:
        layers, columns = grid(model_shape(self.model.config), self.players)
        return layers * columns

    def per_prompt(self, coalitions: BoolArray) -> FloatArray:
        """Utilities [coalitions, prompts] of coalitions bool [coalitions, players]."""
        utilities = np.empty((len(coalitions), len(self.prompts)))
        for column, prompt in enumerate(self.prompts):
            utilities[:, column] = self._of(prompt, coalitions)
        return utilities

    def _of(self, prompt: GamePrompt, coalitions: BoolArray) -> FloatArray:
        """Utilities [coalitions] on one prompt."""
        prefilled = prompt.prefill if isinstance(prompt.prefill, Prefill) else prompt.prefill()
        prefilled = on_device(prefilled, self.model.device)
        rows = coalition_rows(coalitions, prefilled, self.window_size, self.players)
        if self.utility == "metric":
            answers = decode(
                self.model,
                prefilled,
                rows,
                prompt.stop,
                way=self.way,
                max_bytes=self.max_bytes,
                first_token=self.first_token,
            )
            return np.array([prompt.judge(answer.tokens) for answer in answers], dtype=np.float64)
        assert prompt.answer is not None
        forced = teacher_force(
            self.model, prefilled, rows, prompt.answer, prompt.stop, self.way, self.max_bytes, self.first_token
        )
        return _forced_utility(self.utility, forced)

    def __call__(self, coalitions: BoolArray) -> FloatArray:
        means: FloatArray = self.per_prompt(coalitions).mean(axis=1)
        return means


def _forced_utility(utility: Utility, forced: ForcedAnswer) -> FloatArray:
    if utility == "exact_match":
        return np.asarray(forced.best.all(axis=1), dtype=np.float64)
    if utility == "probability":
        return np.asarray(np.exp(forced.log_probability).mean(axis=1))
    return np.asarray(forced.log_probability.sum(axis=1))
