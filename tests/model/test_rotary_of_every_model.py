"""ModelParts.rotary is the rotation that a layer applies: without it, queries do not depend on the position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from models import REFUSABLE, tiny_models
from packaging.version import Version
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from cokv.model.observe import ModelParts, apply_rotary
from cokv.model.shape import model_shape
from cokv.types import CokvError

TOKENS, SHIFT = 20, 9
MODELS = tiny_models()
pytestmark = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.20"),
    reason="models are built small, and refused, as of 5.23",
)
RECORDER = "queries_recorded"


@pytest.fixture
def recorded() -> Iterator[dict[int, torch.Tensor]]:
    """Queries that attention gets in a forward pass, by layer, where a model's implementation is RECORDER."""
    queries: dict[int, torch.Tensor] = {}

    def attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        queries[module.layer_idx] = query
        kwargs.pop("softcap", None)  # sdpa refuses it; a cap moves no position
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(RECORDER, attention)
    AttentionMaskInterface.register(RECORDER, AttentionMaskInterface()["sdpa"])
    yield queries
    for interface in (AttentionInterface, AttentionMaskInterface):
        interface._global_mapping.pop(RECORDER)


def queries_at(model: PreTrainedModel, first: int, recorded: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """Of one prompt whose first token stands at position `first`, by layer."""
    recorded.clear()
    prompt = torch.randint(1, 80, (1, TOKENS), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        model(prompt, position_ids=torch.arange(first, first + TOKENS)[None], use_cache=False)
    return dict(recorded)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(MODELS) - REFUSABLE))
def test_unrotated_queries_do_not_depend_on_the_position(name: str, recorded: dict[int, torch.Tensor]) -> None:
    """Rotary positions are relative: the same prompt elsewhere differs in nothing but the rotation."""
    model = MODELS[name]()
    parts = ModelParts(model)
    try:
        layers = model_shape(model.config).full_layers
        rotations = {layer: parts.rotary(layer, torch.arange(SHIFT + TOKENS)) for layer in layers}
    except CokvError:
        return  # refused: no method scores with a rotation that this model does not apply
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            module.config._attn_implementation = RECORDER
    here, there = queries_at(model, 0, recorded), queries_at(model, SHIFT, recorded)
    for layer, (cos, sin) in rotations.items():
        unrotated_here = apply_rotary(here[layer], cos[:TOKENS], -sin[:TOKENS])
        unrotated_there = apply_rotary(there[layer], cos[SHIFT:], -sin[SHIFT:])
        torch.testing.assert_close(
            unrotated_here, unrotated_there, rtol=0, atol=1e-3, msg=f"layer {layer} rotates otherwise"
        )
