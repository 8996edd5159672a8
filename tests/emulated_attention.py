"""Stand-ins on the CPU for CUDA kernels: the libraries' real signatures, their documented meaning, their odd habits.

Habits: a log-sum-exp of +inf for an empty sequence (flash attention 2), base 2 and no sign of emptiness (FlashInfer).
"""

from __future__ import annotations

import math
import types
from typing import Any

import torch

from cokv.cache.attention.reference import capped


def sequences(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    scale: float,
    used: torch.Tensor,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of sequences of any length, not causal: query [total_q, heads, d], key, value [total_k, kv_heads, d].

    Returns the output and the log-sum-exp [heads, total_q]. Checks what the kernels check.
    """
    for name, tensor in {"cu_seq_q": cu_seq_q, "cu_seq_k": cu_seq_k, "seqused_k": used}.items():
        assert tensor.dtype == torch.int32 and tensor.is_contiguous(), f"{name} is {tensor.dtype}"
    assert query.dtype == key.dtype == value.dtype and query.dtype in (torch.float16, torch.bfloat16), query.dtype
    assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1 and query.shape[1] % key.shape[1] == 0
    assert len(cu_seq_q) == len(cu_seq_k) == len(used) + 1
    assert bool((cu_seq_k.diff() >= used).all()), "a sequence uses more tokens than its stretch has"
    assert max_k >= int(used.max()) and max_q >= int(cu_seq_q.diff().max())
    out = torch.zeros_like(query)
    lse = torch.full((query.shape[1], query.shape[0]), torch.inf)
    group = query.shape[1] // key.shape[1]
    for i, n in enumerate(used.tolist()):
        rows = slice(int(cu_seq_q[i]), int(cu_seq_q[i + 1]))
        there = slice(int(cu_seq_k[i]), int(cu_seq_k[i]) + n)
        k, v = (x[there].float().repeat_interleave(group, 1).transpose(0, 1) for x in (key, value))
        if n:
            logits = capped(query[rows].float().transpose(0, 1) @ k.transpose(1, 2) * scale, softcap)
            lse[:, rows] = logits.logsumexp(-1)
            out[rows] = (logits.softmax(-1) @ v).transpose(0, 1).to(query.dtype)
    return out, lse


def aten_flash_attention_forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cum_seq_q: torch.Tensor,
    cum_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    dropout_p: float,
    is_causal: bool,
    return_debug_mask: bool,
    *,
    scale: float | None = None,
    window_size_left: int | None = None,
    window_size_right: int | None = None,
    seqused_k: torch.Tensor | None = None,
    alibi_slopes: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    num_splits: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """aten::_flash_attention_forward, for the CPU."""
    assert not dropout_p and not is_causal and not return_debug_mask and scale is not None and seqused_k is not None
    assert window_size_left in (None, -1) and window_size_right in (None, -1)
    assert alibi_slopes is None and block_table is None and num_splits is None
    out, lse = sequences(query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, scale, seqused_k)
    nothing = torch.zeros(2, dtype=torch.uint64)
    return out, lse, nothing, nothing.clone(), query.new_empty(0)


def _flash_attn_varlen_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: torch.Tensor | None = None,
    return_softmax: bool = False,
    block_table: torch.Tensor | None = None,
    leftpad_k: torch.Tensor | None = None,
    seqused_k: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """flash-attn 2.7, flash_attn/flash_attn_interface.py."""
    assert not dropout_p and not causal and not return_softmax and window_size_left == window_size_right == -1
    assert alibi_slopes is None and block_table is None and leftpad_k is None and seqused_k is not None
    stretches = cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k
    out, lse = sequences(q, k, v, *stretches, softmax_scale, seqused_k, softcap or None)
    return out, lse, q.new_empty(0), torch.empty(2, dtype=torch.int64)


class BatchDecodeWithPagedKVCacheWrapper:
    """FlashInfer 0.2 to 0.7, flashinfer/decode.py; without what is never passed."""

    def __init__(
        self,
        float_workspace_buffer: torch.Tensor,
        kv_layout: str = "NHD",
        use_cuda_graph: bool = False,
        use_tensor_cores: bool = False,
    ) -> None:
        assert float_workspace_buffer.dtype == torch.uint8 and kv_layout == "NHD" and use_tensor_cores
        self.planned: dict[str, Any] = {}

    def plan(
        self,
        indptr: torch.Tensor,
        indices: torch.Tensor,
        last_page_len: torch.Tensor,
        num_qo_heads: int,
        num_kv_heads: int,
        head_dim: int,
        page_size: int,
        *,
        logits_soft_cap: float | None = None,
        q_data_type: torch.dtype = torch.float16,
        kv_data_type: torch.dtype | None = None,
        sm_scale: float | None = None,
    ) -> None:
        for tensor in (indptr, indices, last_page_len):
            assert tensor.dtype == torch.int32, tensor.dtype
        assert len(indices) == int(indptr[-1]) and len(last_page_len) == len(indptr) - 1
        assert (num_qo_heads % num_kv_heads, page_size, kv_data_type) == (0, 1, q_data_type)
        self.planned = {
            "indptr": indptr,
            "indices": indices,
            "heads": (num_qo_heads, num_kv_heads, head_dim),
            "cap": logits_soft_cap,
            "scale": head_dim**-0.5 if sm_scale is None else sm_scale,
            "dtype": q_data_type,
        }

    def run(
        self, q: torch.Tensor, paged_kv_cache: tuple[torch.Tensor, torch.Tensor], *, return_lse: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        plan, (keys, values) = self.planned, paged_kv_cache
        heads, kv_heads, head_dim = plan["heads"]
        assert return_lse and q.dtype == plan["dtype"] and list(q.shape[1:]) == [heads, head_dim]
        assert list(keys.shape[1:]) == [1, kv_heads, head_dim] and keys.shape == values.shape
        used, at = plan["indptr"].diff(), plan["indices"].long()
        each = torch.arange(len(q) + 1, dtype=torch.int32)
        k, v = keys[at][:, 0], values[at][:, 0]
        out, lse = sequences(q, k, v, each, plan["indptr"], 1, len(at), plan["scale"], used, plan["cap"])
        return out, torch.where(lse == torch.inf, -5e4, lse / math.log(2)).T.contiguous()


def flash_attn() -> dict[str, types.ModuleType]:
    """Modules to plant: the package and its interface."""
    package, interface = types.ModuleType("flash_attn"), types.ModuleType("flash_attn.flash_attn_interface")
    package.__path__ = []  # type: ignore[attr-defined]
    package.__spec__ = types.SimpleNamespace(name="flash_attn")  # type: ignore[assignment]
    interface._flash_attn_varlen_forward = _flash_attn_varlen_forward  # type: ignore[attr-defined]
    package.flash_attn_interface = interface  # type: ignore[attr-defined]
    return {"flash_attn": package, "flash_attn.flash_attn_interface": interface}


def flashinfer() -> dict[str, types.ModuleType]:
    package = types.ModuleType("flashinfer")
    package.__spec__ = types.SimpleNamespace(name="flashinfer")  # type: ignore[assignment]
    package.BatchDecodeWithPagedKVCacheWrapper = BatchDecodeWithPagedKVCacheWrapper  # type: ignore[attr-defined]
    return {"flashinfer": package}
