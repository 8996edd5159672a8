"""kvpress's score-based presses as scorers: `kvpress:KnormPress`.

NVIDIA/kvpress, presses/scorer_press.py: a press scores a layer's tokens from its attention module, that module's input
hidden states, keys and values. Here it does so while the prompt is read; hooks hold one layer's inputs at a time.
Selection and storage are those of every method: exact totals, ragged storage.

A press whose scores change with its compression ratio, such as StreamingLLM's, scores again once the budget is known;
the prefill keeps the layer's inputs for that. A press that needs attention weights, or that loads something for the
model beforehand, is refused.
Differs: scores are ranked in float32, ties to the earlier token; the press itself computes in the model's dtype, as in
kvpress. kvpress wraps transformers' attention functions when it is imported; that is undone, since nothing here needs
it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from dataclasses import MISSING, dataclass, fields, make_dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from cokv.cache.compat import attention_functions_kept
from cokv.types import CokvError

if TYPE_CHECKING:
    from cokv.cache.prefill import PrefillLayer
    from cokv.model.observe import AttentionInputs, LayerView, Observation

RATIO = "compression_ratio"  # set here, from the budget


def kvpress_version() -> str:
    try:
        return f"kvpress {version('kvpress')}"
    except PackageNotFoundError:
        raise CokvError(
            "kvpress is not installed; install it with `pip install cokv[kvpress]`, in a separate environment: "
            "it needs an older transformers"
        ) from None


@functools.cache
def _kvpress() -> Any:
    kvpress_version()
    with attention_functions_kept():
        return importlib.import_module("kvpress")


@functools.cache
def press_scorer(name: str) -> Any:
    """A scorer with the fields of the press, except the compression ratio."""
    package = _kvpress()
    press: Any = getattr(package, name, None)
    if not _scores(press):
        valid = sorted(key for key, value in vars(package).items() if _scores(value) and not _refused(value))
        got = "has no scores of its own" if isinstance(press, type) else "is not in it"
        raise CokvError(f"kvpress:{name}: {got}; score-based presses of {kvpress_version()}: {', '.join(valid)}")
    if reason := _refused(press):
        raise CokvError(f"kvpress:{name} {reason}")
    settings = [
        (field.name, field.type, field.default)
        for field in fields(press)
        if field.init and field.name != RATIO and field.default is not MISSING
    ]
    return make_dataclass(name, settings, bases=(PressScorer,), namespace={"press": press}, frozen=True)()


def _scores(press: Any) -> bool:
    base = _kvpress().ScorerPress
    if not isinstance(press, type) or not issubclass(press, base):
        return False
    return getattr(press, "score", None) is not base.score


def _refused(press: Any) -> str:
    """Why a press cannot be run by its scores alone; "" if it can."""
    if press.post_init_from_model is not _kvpress().BasePress.post_init_from_model:
        return "loads something for the model beforehand, which this bridge does not; choose another press"
    required = [f.name for f in fields(press) if f.init and f.default is MISSING and f.default_factory is MISSING]
    if required:
        return f"is made of other presses ({required[0]}); name a press that scores by itself"
    return ""


@dataclass(frozen=True)
class PressObserver:
    """Observer: a press's scores [num_kv_heads, seq_len], and a function of the ratio where they depend on it."""

    needs_inputs: ClassVar[bool] = True

    press: Any
    settings: tuple[tuple[str, Any], ...]

    def observe(self, view: LayerView) -> Observation:
        score = functools.partial(self._score, view.parts.attention_inputs(view.layer_idx), view.keys, view.values)
        at_low_ratio, at_high_ratio = score(0.25), score(0.75)
        if torch.equal(at_low_ratio, at_high_ratio):
            return (at_low_ratio,)
        return at_low_ratio, score  # type: ignore[return-value]  # called by `refine`

    def _score(self, inputs: AttentionInputs, keys: torch.Tensor, values: torch.Tensor, ratio: float) -> torch.Tensor:
        press, module = self.press(**dict(self.settings)), inputs.module
        press.compression_ratio = ratio
        add_rotary = inputs.rotary is not None and not hasattr(module, "rotary_emb")
        if add_rotary:
            module.rotary_emb = inputs.rotary  # where presses expect it
        try:
            scores = press.score(module, inputs.hidden_states, keys[None], values[None], None, dict(inputs.kwargs))
        except Exception as error:  # any error of the press
            raise CokvError(
                f"{self.press.__name__} cannot score this prompt: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200] or 'it says nothing more'}"
            ) from error
        finally:
            if add_rotary:
                del module.rotary_emb
        if list(scores.shape) != [1, *keys.shape[:2]]:
            raise CokvError(
                f"{self.press.__name__} gave scores of shape {list(scores.shape)}, expected [1, num_kv_heads, seq_len]"
            )
        return scores[0].float()


@dataclass(frozen=True)
class PressScorer:
    """Base class of the scorers, one subclass per press, with the press's fields."""

    press: ClassVar[Any]
    reads: ClassVar[str] = "whatever the press reads"

    @property
    def window_size(self) -> int:
        return 0

    @property
    def observers(self) -> tuple[PressObserver]:
        return (PressObserver(self.press, tuple((field.name, getattr(self, field.name)) for field in fields(self))),)

    def reserved(self, seq_len: int) -> int:
        return 0

    def check_budget(self, kv_budget: int) -> None:
        """Presses have no minimum budget."""

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        return layer.observation(self.observers[0])[0]

    def refine(self, layer: PrefillLayer, scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        observed: Any = layer.observation(self.observers[0])
        if len(observed) == 1:
            return scores
        ratio = 1 - (int(counts.max()) + 0.5) / scores.shape[1]  # then int(seq_len * (1 - ratio)) is counts.max()
        return observed[1](ratio)  # type: ignore[no-any-return]


def press_source(name: str) -> str:
    return f"{kvpress_version()}, {inspect.getmodule(type(press_scorer(name)).press).__name__}"  # type: ignore[union-attr]
