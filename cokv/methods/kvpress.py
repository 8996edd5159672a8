"""kvpress's score-based presses as scorers: `kvpress:KnormPress`.

NVIDIA/kvpress, presses/scorer_press.py: a press scores a layer's tokens from its attention module, the hidden states
that go into it, keys and values. Here it does so while the prompt is read; hooks hold one layer's inputs at a time.
Which tokens stay, and where, is decided as for every method: exact totals, ragged storage.

A press whose scores change with its compression ratio, as StreamingLLM's do, is asked again once the budget is known;
for that the layer's inputs stay with the prefill. A press that needs attention weights, or that loads something for
the model beforehand, is refused.
Differs: a press is given float32 or whatever the model's type is, as kvpress does; its scores are ranked in float32,
ties to the earlier token. kvpress wraps transformers' attention functions when it is imported; that is undone, since
nothing here needs it.
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

RATIO = "compression_ratio"  # ours to set: the budget says what it is


def kvpress_version() -> str:
    try:
        return f"kvpress {version('kvpress')}"
    except PackageNotFoundError:
        raise CokvError(
            "kvpress is not installed; install it with `pip install cokv[kvpress]`, in an environment of its own: "
            "it needs an older transformers"
        ) from None


@functools.cache
def _kvpress() -> Any:
    kvpress_version()
    with attention_functions_kept():
        return importlib.import_module("kvpress")


@functools.cache
def press_scorer(name: str) -> Any:
    """A scorer whose fields are the press's own, the compression ratio left out."""
    package = _kvpress()
    press: Any = getattr(package, name, None)
    if not _scores(press):
        able = sorted(key for key, value in vars(package).items() if _scores(value) and not _refused(value))
        got = "has no scores of its own" if isinstance(press, type) else "is not in it"
        raise CokvError(f"kvpress:{name}: {got}; score-based presses of {kvpress_version()}: {', '.join(able)}")
    if reason := _refused(press):
        raise CokvError(f"kvpress:{name} {reason}")
    own = [
        (field.name, field.type, field.default)
        for field in fields(press)
        if field.init and field.name != RATIO and field.default is not MISSING
    ]
    made = make_dataclass(name, own, bases=(PressScorer,), namespace={"press": press}, frozen=True)
    return made()


def _scores(press: Any) -> bool:
    base = _kvpress().ScorerPress
    if not isinstance(press, type) or not issubclass(press, base):
        return False
    return getattr(press, "score", None) is not base.score


def _refused(press: Any) -> str:
    """Why a press cannot be run by its scores alone, or nothing."""
    if press.post_init_from_model is not _kvpress().BasePress.post_init_from_model:
        return "loads something for the model beforehand, which this bridge does not; choose another press"
    lacking = [f.name for f in fields(press) if f.init and f.default is MISSING and f.default_factory is MISSING]
    if lacking:
        return f"is made of other presses ({lacking[0]}); name a press that scores by itself"
    return ""


@dataclass(frozen=True)
class PressLook:
    """Observer: a press's scores [num_kv_heads, seq_len], and how to ask again where they depend on the budget."""

    needs_inputs: ClassVar[bool] = True

    press: Any
    settings: tuple[tuple[str, Any], ...]

    def observe(self, view: LayerView) -> Observation:
        ask = functools.partial(self._ask, view.parts.attention_inputs(view.layer_idx), view.keys, view.values)
        loose, tight = ask(0.25), ask(0.75)
        if torch.equal(loose, tight):
            return (loose,)
        return loose, ask  # type: ignore[return-value]  # asked by `refine`

    def _ask(self, given: AttentionInputs, keys: torch.Tensor, values: torch.Tensor, ratio: float) -> torch.Tensor:
        press, module = self.press(**dict(self.settings)), given.module
        press.compression_ratio = ratio
        lent = given.rotary is not None and not hasattr(module, "rotary_emb")
        if lent:
            module.rotary_emb = given.rotary  # presses look for it there
        try:
            scores = press.score(module, given.hidden_states, keys[None], values[None], None, dict(given.kwargs))
        except Exception as error:  # whatever a press trips over is why it cannot run here
            raise CokvError(
                f"{self.press.__name__} cannot score this prompt: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200] or 'it says nothing more'}"
            ) from error
        finally:
            if lent:
                del module.rotary_emb
        if list(scores.shape) != [1, *keys.shape[:2]]:
            raise CokvError(
                f"{self.press.__name__} gave scores of shape {list(scores.shape)}, expected [1, num_kv_heads, seq_len]"
            )
        return scores[0].float()


@dataclass(frozen=True)
class PressScorer:
    """Its subclasses, one per press, have the press's fields."""

    press: ClassVar[Any]
    reads: ClassVar[str] = "whatever the press reads"

    @property
    def window_size(self) -> int:
        return 0

    @property
    def observers(self) -> tuple[PressLook]:
        return (PressLook(self.press, tuple((field.name, getattr(self, field.name)) for field in fields(self))),)

    def reserved(self, seq_len: int) -> int:
        return 0

    def check_budget(self, kv_budget: int) -> None:
        """A press says nothing of budgets."""

    def scores(self, layer: PrefillLayer) -> torch.Tensor:
        return layer.observation(self.observers[0])[0]

    def refine(self, layer: PrefillLayer, scores: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        seen: Any = layer.observation(self.observers[0])
        if len(seen) == 1:
            return scores
        kept, seq_len = int(counts.max()), scores.shape[1]
        return seen[1](1 - (kept + 0.5) / seq_len)  # type: ignore[no-any-return]  # int(seq_len * (1 - ratio)) == kept


def press_source(name: str) -> str:
    return f"{kvpress_version()}, {inspect.getmodule(type(press_scorer(name)).press).__name__}"  # type: ignore[union-attr]
