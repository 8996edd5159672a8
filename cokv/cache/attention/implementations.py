"""Which of transformers' attention implementations can read a prompt for us: those that compute what the model says.

Some leave out a part of the softmax without a word: scaled dot product attention knows no sinks, and up to
transformers 5.19 drops a cap of the logits; flash attention 2 and 3 know no sinks.
"""

from __future__ import annotations

from transformers import PreTrainedModel

from cokv.model.shape import model_shape
from cokv.types import CokvError

UNSUPPORTED = ("flex_attention", "paged|")  # their masks are objects that a compressed cache cannot follow
WITH_SINKS = ("eager", "flash_attention_4", "kernels-community/vllm-flash-attn3")


def check_implementation(base: str, model: PreTrainedModel) -> None:
    """Refuses `base`, a name of transformers' attention interface, where its masks or its softmax are others."""
    name = type(model).__name__
    if base.startswith(UNSUPPORTED):
        raise CokvError(
            f"{name} uses attention implementation {base!r}; load it with attn_implementation='sdpa', 'eager' or a "
            "flash attention"
        )
    if base == "sdpa" and model_shape(model.config).softcap is not None:
        raise CokvError(
            f"{name} caps its attention logits, which attention implementation 'sdpa' cannot do; load it with "
            "attn_implementation='eager'"
        )
    if base not in (*WITH_SINKS, *_flash_named_by(model)) and _has_sinks(model):
        raise CokvError(
            f"{name} has attention sinks, which attention implementation {base!r} leaves out; load it with "
            "attn_implementation='eager'"
        )


def _has_sinks(model: PreTrainedModel) -> bool:
    return any(getattr(part, "sinks", None) is not None for part in model.modules())


def _flash_named_by(model: PreTrainedModel) -> tuple[str, ...]:
    """Flash attentions that a model class says it works with."""
    return tuple(getattr(model, "_compatible_flash_implementations", None) or ())
