"""What can be looked at while a prompt is read, for scorers that need more than a prefill keeps.

A prefill keeps keys, values and the last queries. A scorer that needs all queries, the output projection, or the model
itself names *observers*; each sees one layer at a time while all its queries are there, and what it returns stays with
that layer. State must be O(seq_len) per head. Equal observers of several methods look once. A *replayer* has more text
read after the prompt, on the prompt's cache, and sees the attention of that text.

An observer that cannot do its work on this model or prompt raises CokvError; the prefill goes on, and the error
reaches whoever asks for the observation. Knows no scorer, no cache and no transformers.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch

from cokv.model.devices import present, runs_on
from cokv.types import CokvError

Observation: TypeAlias = "tuple[torch.Tensor, ...]"


@dataclass(frozen=True, eq=False)
class AttentionInputs:
    """What one attention module is called with: hidden_states [1, seq_len, hidden_size], and everything else."""

    module: Any  # torch.nn.Module
    hidden_states: torch.Tensor
    kwargs: Mapping[str, Any]
    rotary: Any  # the model's module of rotary embeddings; None where it has none, or several


@dataclass(frozen=True, eq=False)
class ModelParts:
    """What an observer may ask of the model beyond its attention. Found by module name; says so where it is not."""

    model: Any  # torch.nn.Module
    tokenizer: Any = None
    inputs: dict[int, AttentionInputs] = field(default_factory=dict)  # of the layer that is running

    def note_inputs(self, module: Any, hidden_states: torch.Tensor, kwargs: Mapping[str, Any]) -> None:
        """Takes down what the attention module that runs next is called with."""
        rotary = self._rotary_modules()
        self.inputs.clear()
        self.inputs[module.layer_idx] = AttentionInputs(
            module, hidden_states, kwargs, rotary[0] if len(rotary) == 1 else None
        )

    def attention_inputs(self, layer_idx: int) -> AttentionInputs:
        """Of the running layer, for an observer that has set `needs_inputs`."""
        if layer_idx not in self.inputs:
            raise CokvError(f"the inputs of layer {layer_idx} are not known; give the observer `needs_inputs = True`")
        return self.inputs[layer_idx]

    def _rotary_modules(self) -> list[Any]:
        named = self._required_model().named_modules()
        return list({id(m): m for name, m in named if name.rpartition(".")[2] == "rotary_emb"}.values())

    def output_weight(self, layer_idx: int, num_heads: int, head_dim: int) -> torch.Tensor:
        """W_O of one layer, a view: [num_heads, head_dim, hidden_size], so that head h adds A v W_O[h]."""
        weight = getattr(self._attention(layer_idx).o_proj, "weight", None)
        if weight is None or weight.ndim != 2 or weight.shape[1] != num_heads * head_dim:
            got = "none" if weight is None else list(weight.shape)
            raise CokvError(
                f"the output projection of layer {layer_idx} has a weight of shape {got}, expected "
                f"[hidden_size, {num_heads * head_dim}]; use a model in float32, bfloat16 or float16"
            )
        if weight.device.type == "meta":  # offloaded, and not in use just now
            projection = self._attention(layer_idx).o_proj
            weight = present(projection, "weight", weight).to(runs_on(projection))
        return weight.detach().T.view(num_heads, head_dim, -1)

    def rotary(self, layer_idx: int, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of the rotary embedding at `positions` int64 [n]: float32 [n, rotated dims] each.

        Where frequencies depend on the largest position (longrope, dynamic), they are those of the positions asked for
        together. What the model rotates with is left as it is. Only for models that rotate the first half of those
        dims against the second, which is checked.
        """
        rotary = self._rotary_modules()
        if len(rotary) != 1:
            raise CokvError(
                f"{type(self.model).__name__} has {len(rotary)} modules named rotary_emb, expected one; "
                "use a model with one rotary position embedding"
            )
        module = copy.deepcopy(rotary[0])  # some note the largest position they were asked for
        attention = self._attention(layer_idx)
        apply = getattr(sys.modules[type(attention).__module__], "apply_rotary_pos_emb", None)
        if apply is None or not _rotates_always(attention):
            raise CokvError(
                f"{type(self.model).__name__} does not rotate queries by apply_rotary_pos_emb in every layer; "
                "use a Llama, Mistral or Qwen model"
            )
        dtype = torch.arange(1, 5, dtype=torch.float32, device=positions.device)  # says which dtype is wanted
        somewhere = torch.tensor([[7]], device=positions.device)  # position 0 would agree with any rotation
        try:
            cos, sin = (part[0].float() for part in copy.deepcopy(module)(dtype, somewhere))
            test = torch.linspace(-1, 1, cos.numel(), device=cos.device)[None, None, None]
            by_halves = torch.allclose(
                apply(test, test, cos[None], sin[None])[0], apply_rotary(test, cos, sin), atol=1e-5
            )
        except Exception as error:  # whatever a rotary module of another kind trips over
            raise CokvError(
                f"{type(self.model).__name__} has a rotary embedding of another kind ({type(error).__name__}); use a "
                "Llama, Mistral or Qwen model"
            ) from None
        if not by_halves:
            raise CokvError(
                f"{type(self.model).__name__} does not rotate queries by halves; use a Llama, Mistral or Qwen model"
            )
        # A model spread over several devices rotates on one of them.
        cos, sin = (part[0].float().to(positions.device) for part in module(dtype, positions[None]))
        return cos, sin

    def text(self, token: int) -> str:
        return str(self._tokenizer().decode([token]))

    def ids(self, text: str) -> list[int]:
        return list(self._tokenizer()(text, add_special_tokens=False)["input_ids"])

    def special_ids(self) -> set[int]:
        return set(self._tokenizer().all_special_ids)

    def _tokenizer(self) -> Any:
        if self.tokenizer is None:
            raise CokvError("needs the model's tokenizer and got none; give tokenizer=")
        return self.tokenizer

    def _required_model(self) -> Any:
        if self.model is None:
            raise CokvError("needs the model, which this cache has lost (it was unpickled); call cokv.compress again")
        return self.model

    def _attention(self, layer_idx: int) -> Any:
        modules = self._required_model().modules()
        attention = [m for m in modules if getattr(m, "layer_idx", None) == layer_idx and hasattr(m, "o_proj")]
        if len(attention) != 1:
            raise CokvError(
                f"{type(self.model).__name__} has {len(attention)} modules with layer_idx {layer_idx} and an o_proj, "
                "expected one; use a Llama, Mistral or Qwen model"
            )
        return attention[0]


def _rotates_always(attention: Any) -> bool:
    """Whether its forward calls apply_rotary_pos_emb, and not on a condition: some models leave layers unrotated."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(type(attention).forward))))
    except (OSError, TypeError, SyntaxError):
        return False

    def rotations(node: ast.AST) -> int:
        calls = [inner for inner in ast.walk(node) if isinstance(inner, ast.Call)]
        return sum(getattr(call.func, "id", "") == "apply_rotary_pos_emb" for call in calls)

    conditional = sum(rotations(node) for node in ast.walk(tree) if isinstance(node, (ast.If, ast.IfExp)))
    return rotations(tree) > 0 and not conditional


@dataclass(frozen=True, eq=False)
class LayerView:
    """One full-attention layer while the prompt is read: all its queries, post-RoPE as the keys are."""

    layer_idx: int
    input_ids: torch.Tensor | None  # int64 [seq_len]; None where the model reads embeddings
    queries: torch.Tensor  # [num_heads, seq_len, head_dim]
    keys: torch.Tensor  # [num_kv_heads, seq_len, head_dim]
    values: torch.Tensor  # [num_kv_heads, seq_len, head_dim]
    scaling: float
    parts: ModelParts
    softcap: float | None = None  # of the attention logits, see Shape
    sinks: torch.Tensor | None = None  # [num_heads]: logits without a token, where the model has them


def apply_rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding by halves of the first dims of x [..., head_dim]; cos, sin [..., rotated dims]."""
    part, rest = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], dim=-1)
    first, second = part.chunk(2, dim=-1)
    return torch.cat([part * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)


class Observer(Protocol):
    """A frozen dataclass: equal ones see the same. With `needs_inputs` set it may ask for `attention_inputs`.

    For prompts that are read in pieces it may say `last_queries`, how many of a prompt's last queries it needs, or have
    `add(before, more)`, which joins what it saw of the first queries and of those after them; see cache/pieces.py.
    """

    def observe(self, view: LayerView) -> Observation:
        """Tensors of O(num_heads * seq_len) numbers."""
        ...


@dataclass(frozen=True)
class Passage:
    """Text to be read after the prompt, to see how it attends prompt positions start..end."""

    start: int
    end: int
    ids: tuple[int, ...]


@runtime_checkable
class Replayer(Protocol):
    """An observer of text that is read after the prompt. A frozen dataclass, too."""

    def passages(self, input_ids: torch.Tensor, parts: ModelParts) -> Sequence[Passage]:
        """Together they cover every prompt position, in order, once."""
        ...

    def look(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        scaling: float,
        passage: Passage,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Of one layer, per position: [num_kv_heads, end - start].

        queries [num_heads, t, head_dim] of the passage; keys [num_kv_heads, seq_len + t, head_dim], the passage last;
        softcap and sinks as in LayerView.
        """
        ...
