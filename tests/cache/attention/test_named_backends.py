"""Backends by name: every one gives what the reference gives, CUDA's by kernels that are emulated or interpreted.

What is emulated is the kernel alone (emulated_attention.py); Triton's kernels run as they are, in its interpreter, and
are compiled for GPUs that are not there (triton_interpreted.py, triton_compiled.py).
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import emulated_attention
import pytest
import torch
from segments import storage
from transformers import PreTrainedModel

import cokv
from cokv.cache.attention import choose, flash, flashinfer, reference, varlen

TESTS = Path(__file__).parents[2]
TORCH_2_11 = frozenset({"query", "cu_seq_k", "return_aux", "scale", "window_size"})
EMULATED = ["varlen", "varlen of torch 2.11", "flash", "flashinfer"]


@pytest.fixture
def emulated(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A backend whose kernel is emulated, by its name, as if this machine had what it needs."""
    name = request.param.split()[0]
    planted = {**emulated_attention.flash_attn(), **emulated_attention.flashinfer()}
    for module, what in planted.items():
        monkeypatch.setitem(sys.modules, module, what)
    if request.param != name:
        monkeypatch.setattr(varlen, "parameters", lambda: TORCH_2_11)
    for module in (varlen, flash, flashinfer):
        monkeypatch.setattr(module, "missing", lambda: None)
        monkeypatch.setattr(module, "flash_refusal", lambda *kind: None)
    caches = flash._forward, flashinfer._wrapper_class, flashinfer._wrapper
    for cached in caches:
        cached.cache_clear()
    library = torch.library.Library("aten", "IMPL")
    library.impl("_flash_attention_forward", emulated_attention.aten_flash_attention_forward, "CPU")
    yield name
    library._destroy()
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize("emulated", EMULATED, indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("lengths", "group"), [([0, 1, 5, 70, 0, 33, 2], 4), ([9, 0, 200], 1), ([40] * 6, 8), ([0, 0], 2)]
)
def test_backends_of_cuda_equal_the_reference(
    emulated: str, dtype: torch.dtype, lengths: list[int], group: int
) -> None:
    inputs = storage(lengths, group, 64, dtype)
    expected, expected_lse = reference.attend(*inputs, 0.1)
    bounds = [n + 2 for n in lengths]
    for at_most in (None, bounds):
        got, lse = choose.get_backend(emulated).attend(*inputs, 0.1, at_most)
        assert got.dtype == dtype and lse.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=1e-2)
        torch.testing.assert_close(lse, expected_lse, rtol=1e-4, atol=1e-4)
    wide, _ = choose.get_backend(emulated).attend(inputs[0].float(), *inputs[1:], 0.1)
    assert wide.dtype == torch.float32, "queries that are wider than what is stored are answered in their dtype"
    torch.testing.assert_close(wide, expected.float(), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("emulated", ["flash", "flashinfer"], indirect=True)
def test_a_cap_on_logits_where_the_library_has_one(emulated: str) -> None:
    inputs = storage([5, 0, 70], 4, 64, torch.bfloat16)
    expected, expected_lse = reference.attend(*inputs, 1.0, softcap=3.0)
    got, lse = choose.get_backend(emulated).attend(*inputs, 1.0, softcap=3.0)
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=1e-2)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("emulated", EMULATED, indirect=True)
def test_keys_that_lost_channels_go_elsewhere(emulated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, keys, values, starts, lengths = storage([5, 0, 70], 4, 64, torch.bfloat16)
    pruned = queries[..., :40], keys[:, :40].contiguous(), values, starts, lengths
    with pytest.raises(cokv.CokvError, match="keys as wide as values, got 40 and 64 channels"):
        choose.get_backend(emulated).attend(*pruned, 1.0)
    monkeypatch.setitem(choose.ORDER, "cpu", (emulated, "buckets"))
    monkeypatch.setattr(choose, "choose", choose.choose.__wrapped__)
    for got, expected in zip(choose.attend(*pruned, 1.0), reference.attend(*pruned, 1.0), strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("emulated", EMULATED, indirect=True)
def test_a_compressed_cache_answers_as_with_the_reference(
    emulated: str, fresh_model: Callable[..., PreTrainedModel], prompt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded rows through the model; logits, since bfloat16 rounds to other tokens now and then."""
    monkeypatch.setattr(flashinfer, "HEAD_DIMS", (16,))
    model, new = fresh_model().to(torch.bfloat16), prompt(4)
    ids = torch.stack([prompt(60), prompt(60)])
    seen = torch.ones(2, 64, dtype=torch.int64)
    seen[0, :9] = 0
    answers = []
    for attention in ("reference", emulated):
        cache = cokv.compress(model, "adakv", kv_budget=24, window_size=8, attention=attention)
        assert set(cache.attention) == {attention}
        read = [60, 61, 63, 64]  # a prompt, a token, a chunk of two, a token
        inputs = torch.cat([ids, new.expand(2, -1)], 1)
        with torch.no_grad():
            steps = [
                model(inputs[:, start:end], attention_mask=seen[:, :end], past_key_values=cache).logits[:, -1]
                for start, end in zip([0, *read], read, strict=False)
            ]
        answers.append(torch.stack(steps[1:]).float())
    assert (answers[0] - answers[1]).norm() < 0.02 * answers[0].norm()


def test_rows_that_have_ended_leave_stretches_that_still_ascend(fresh_model: Any, prompt: Any) -> None:
    """What the starts must do for those that take them as cumulative lengths; storage is laid out anew where not."""
    model, ids = fresh_model(), torch.stack([prompt(40)] * 3)
    cache = cokv.compress(model, "adakv", kv_budget=12, window_size=4)
    with torch.no_grad():
        logits = model(ids, past_key_values=cache).logits[:, -1:]
        for rows in ([0, 2], [1, 0]):
            cache.keep_rows(torch.tensor(rows))
            logits = model(logits[rows].argmax(-1), past_key_values=cache).logits
            for layer in cache.ragged_layers:
                for _, part in layer.parts:
                    assert (part.store.starts.diff() >= part.store.lengths[:-1]).all()  # type: ignore[attr-defined]


def test_emulations_have_the_signatures_of_what_is_installed() -> None:
    schema = torch.ops.aten._flash_attention_forward.default._schema
    ours = list(inspect.signature(emulated_attention.aten_flash_attention_forward).parameters)
    theirs = [argument.name for argument in schema.arguments]
    assert ours[: len(theirs)] == theirs
    if "seqused_k" in varlen.parameters():
        assert {"return_aux", "scale"} <= varlen.parameters()
    pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    from flash_attn import flash_attn_interface

    theirs = list(inspect.signature(flash_attn_interface._flash_attn_varlen_forward).parameters)
    assert theirs[:18] == list(inspect.signature(emulated_attention._flash_attn_varlen_forward).parameters)


# ---- Triton


def program(name: str, **environment: str) -> dict[str, Any]:
    """A program of tests/, in an interpreter of its own: triton must not have been imported before it begins."""
    env = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    ran = subprocess.run([sys.executable, TESTS / name], env=env, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-3000:]
    result: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return result


def test_triton_equals_the_reference_in_its_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    result = program("triton_interpreted.py")
    wrong = {name: case for name, case in result["kernels"].items() if not case["far"] <= case["allowed"]}
    assert len(result["kernels"]) >= 14 and not wrong
    assert result["generated"] == ""


def test_triton_kernels_compile_for_gpus_of_two_generations(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    sizes = program("triton_compiled.py", TRITON_CACHE_DIR=str(tmp_path))
    assert sizes and all(size["cubin_bytes"] > 0 for size in sizes.values())
    smallest = 99 << 10  # bytes of shared memory that a block can have on GPUs of capability 8.6 and 8.9
    assert all(size["shared_bytes"] <= smallest for size in sizes.values()), sizes


# ---- choosing


def test_what_is_available_is_described_and_chosen() -> None:
    described = {each.name: each for each in choose.describe_backends()}
    assert set(described) == set(choose.MODULES) and described["buckets"].available
    assert all(each.use and (each.missing is None) == each.available for each in described.values())
    for device in ("cpu", "cuda", "mps"):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            name = choose.choose(torch.device(device), dtype, 64)
            assert described[name].available and choose.get_backend(name).refusal(device, dtype, 64) is None


def test_the_first_backend_that_serves_a_kind_of_keys_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "missing", lambda name: None)
    device, chosen = torch.device("cuda"), choose.choose.__wrapped__
    assert chosen(device, torch.bfloat16, 128) == "varlen"
    assert chosen(device, torch.bfloat16, 128, 50.0) == "flash", "which has a logits cap"
    assert chosen(device, torch.float32, 128) == "triton"
    assert chosen(device, torch.float64, 128) == "buckets"
    monkeypatch.setattr(choose, "missing", lambda name: "none" if name in ("varlen", "flash") else None)
    assert chosen(device, torch.float16, 80) == "triton"


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("fast", "attention is 'fast'; expected one of auto, reference, buckets"),
        ("varlen", "attention 'varlen' is not available: no CUDA device; available: auto, reference, buckets"),
        ("flash", "attention 'flash' is not available: the package flash-attn is not installed"),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_a_backend_that_is_not_here_is_refused_by_name(fresh_model: Any, attention: str, message: str) -> None:
    with pytest.raises(cokv.CokvError, match=message):
        cokv.compress(fresh_model(), "snapkv", kv_budget=16, window_size=4, attention=attention)


def test_a_backend_that_cannot_serve_the_model_is_refused(fresh_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "missing", lambda: None)
    with pytest.raises(cokv.CokvError, match="attention 'varlen' runs on CUDA, not on 'cpu'; use 'auto', which is"):
        cokv.compress(fresh_model(), "snapkv", kv_budget=16, window_size=4, attention="varlen")
    assert "float32" in str(varlen.refusal(torch.device("cuda"), torch.float32, 64))
    assert "256" in str(varlen.refusal(torch.device("cuda"), torch.bfloat16, 512))
    assert "cap" in str(varlen.refusal(torch.device("cuda"), torch.bfloat16, 64, 30.0))


# ---- the real ones


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["varlen", "flash", "flashinfer", "triton"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_backends_on_cuda_equal_the_reference_on_the_cpu(name: str, dtype: torch.dtype, softcap: float | None) -> None:
    if reason := choose.missing(name):
        pytest.skip(reason)
    backend = choose.get_backend(name)
    if reason := backend.refusal("cuda", dtype, 128, softcap):
        pytest.skip(f"{name} {reason}")
    for lengths, group in (([0, 1, 5, 70, 0, 33, 2000, 31], 4), ([9, 0, 200], 1), ([513] * 64, 8), ([7, 0], 300)):
        inputs = storage(lengths, group, 128, dtype)
        expected, expected_lse = reference.attend(*inputs, 0.1, softcap=softcap)
        got, lse = backend.attend(*(x.cuda() for x in inputs), 0.1, [n + 2 for n in lengths], softcap)
        close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(got.cpu(), expected, **close)  # type: ignore[arg-type]
        torch.testing.assert_close(lse.cpu(), expected_lse, rtol=1e-3, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["varlen", "flash", "flashinfer", "triton"])
def test_generate_on_cuda_answers_as_with_buckets(name: str, dtype: torch.dtype, fresh_model: Any, prompt: Any) -> None:
    if reason := choose.missing(name):
        pytest.skip(reason)
    model = fresh_model().to("cuda", dtype)
    if reason := choose.get_backend(name).refusal("cuda", dtype, model.config.head_dim):
        pytest.skip(f"{name} {reason}")
    ids = torch.stack([prompt(60), prompt(60)]).cuda()
    answers = []
    for attention in ("buckets", name):
        cache = cokv.compress(model, "adakv", kv_budget=24, window_size=8, attention=attention)
        logits = model(ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
        with torch.no_grad():
            steps = [model(logits, past_key_values=cache, use_cache=True).logits for _ in range(4)]
        answers.append(torch.cat(steps, 1).float())
    close = 1e-3 if dtype == torch.float32 else 0.2
    torch.testing.assert_close(*answers, rtol=close, atol=close)
