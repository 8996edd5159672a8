"""Attention in C against the reference, and what comes of it where there is no compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cokv.cache.attention import build, choose, compiled, reference
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.attention.weights import weights
from cokv.cache.cache import RaggedCache
from cokv.cache.prefill import prefill
from cokv.types import CokvError, Selection

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}

pytestmark = pytest.mark.skipif(compiled.missing() is not None, reason=f"no compiled attention: {compiled.missing()}")


def storage(lengths: list[int], rows: int, channels: int, dim: int, dtype: torch.dtype, seed: int) -> tuple[Any, ...]:
    """queries, keys, values, starts, lengths; segments in any order, gaps of NaN between them."""
    generator = torch.Generator().manual_seed(seed)
    counts, gaps = torch.tensor(lengths), torch.randint(1, 4, (len(lengths),), generator=generator)
    order = torch.randperm(len(lengths), generator=generator)
    starts = torch.zeros_like(counts)
    starts[order] = (counts + gaps)[order].cumsum(0) - (counts + gaps)[order]
    slots = int((counts + gaps).sum())
    keys, values = torch.full((slots, channels), torch.nan), torch.full((slots, dim), torch.nan)
    for start, length in zip(starts.tolist(), lengths, strict=True):
        keys[start : start + length] = torch.randn(length, channels, generator=generator)
        values[start : start + length] = torch.randn(length, dim, generator=generator)
    queries = torch.randn(len(lengths), rows, channels, generator=generator)
    return queries.to(dtype), keys.to(dtype), values.to(dtype), starts, counts


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.one_of(st.integers(0, 3), st.integers(0, 200)), min_size=1, max_size=9),
    rows=st.integers(1, 9),
    widths=st.sampled_from([(64, 64), (16, 16), (8, 8), (96, 96), (80, 80), (20, 20), (37, 64), (128, 128)]),
    dtype=st.sampled_from(list(TOLERANCE)),
    wide=st.booleans(),
    softcap=st.sampled_from([None, 0.5, 30.0]),
    seed=st.integers(0, 1000),
)
def test_a_step_stores_its_tokens_and_then_attends_as_the_reference(
    lengths: list[int],
    rows: int,
    widths: tuple[int, int],
    dtype: torch.dtype,
    wide: bool,
    softcap: float | None,
    seed: int,
) -> None:
    queries, keys, values, starts, counts = storage(lengths, rows, *widths, dtype, seed)
    queries = queries.float() if wide else queries
    tolerance = TOLERANCE[torch.float32 if wide else dtype]
    for stored in (False, True):
        new: dict[str, torch.Tensor] = {}
        if stored:
            generator = torch.Generator().manual_seed(seed + 1)
            new = {
                name: torch.randn(len(lengths), width, generator=generator).to(dtype)
                for name, width in zip(("new_keys", "new_values"), widths, strict=True)
            }
            before = keys.clone(), values.clone()
            for part, token in zip(before, new.values(), strict=True):
                part[starts + counts] = token
            expected_stored = *before, counts + 1
        else:
            expected_stored = keys.clone(), values.clone(), counts.clone()
        told = torch.full((len(lengths), rows, 201), torch.nan)
        out, lse = compiled.step(
            queries, keys, values, starts, counts, 0.3, softcap=softcap, weights=told if stored else None, **new
        )
        torch.testing.assert_close((keys, values, counts), expected_stored, rtol=0, atol=0, equal_nan=True)
        expected, expected_lse = reference.attend(queries.float(), keys, values, starts, counts, 0.3, softcap=softcap)
        assert out.dtype == queries.dtype and lse is not None
        torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)
        if stored:
            all_weights = weights(queries, keys, starts, counts, expected_lse, 0.3, 201, softcap)
            torch.testing.assert_close(told, all_weights, rtol=1e-4, atol=1e-6)


def test_tokens_go_where_they_are_sent_and_only_some_segments_grow() -> None:
    queries, keys, values, starts, lengths = storage([4, 0, 7], 2, 8, 8, torch.float32, 0)
    new = torch.randn(2, 3, 8)
    places, grows = torch.tensor([2, 0, 7]), torch.tensor([False, True, True])
    expected_keys, expected_values = keys.clone(), values.clone()
    expected_keys[starts + places], expected_values[starts + places] = new
    out, lse = compiled.step(queries, keys, values, starts, lengths, 1.0, new[0], new[1], places, grows)
    assert lengths.tolist() == [4, 1, 8]
    torch.testing.assert_close((keys, values), (expected_keys, expected_values), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close((out, lse), reference.attend(queries, keys, values, starts, lengths, 1.0))


def test_extreme_logits_stay_finite_and_what_is_no_number_stays_one() -> None:
    queries, keys, values, starts, lengths = storage([70, 70, 70], 1, 16, 16, torch.float32, 0)
    queries[0] *= 1e4
    keys[starts[1] : starts[1] + 3] = 0
    keys[starts[2] + 66] = torch.nan
    out, lse = compiled.attend(queries, keys, values, starts, lengths, 1.0)
    expected, expected_lse = reference.attend(queries, keys, values, starts, lengths, 1.0)
    torch.testing.assert_close(out[:2], expected[:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lse[:2], expected_lse[:2])
    assert out[2].isnan().all() and expected[2].isnan().all()


def test_segments_beyond_their_storage_are_refused_and_nothing_is_written() -> None:
    for change in ({"starts": -1}, {"starts": 90}, {"lengths": -1}, {"places": 6}, {"places": -1}):
        queries, keys, values, starts, lengths = storage([4, 5], 1, 8, 8, torch.float32, 0)
        arguments = {"starts": starts, "lengths": lengths, "places": lengths.clone()}
        for name, number in change.items():
            arguments[name][1] = number
        before = keys.clone(), arguments["lengths"].clone()
        new = torch.zeros(2, 8)
        with pytest.raises(CokvError, match="segment 1 begins at slot"):
            compiled.step(queries, keys, values, arguments["starts"], arguments["lengths"], 1.0, new, new,
                          arguments["places"])  # fmt: skip
        torch.testing.assert_close((keys, arguments["lengths"]), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("wrong", ["dtype", "shape", "stride", "new", "places", "weights"])
def test_arguments_that_do_not_fit_are_refused(wrong: str) -> None:
    queries, keys, values, starts, lengths = storage([4, 5], 1, 8, 8, torch.float32, 0)
    more: dict[str, torch.Tensor] = {"new_keys": torch.zeros(2, 8), "new_values": torch.zeros(2, 8)}
    if wrong == "dtype":
        values = values.double()
    if wrong == "shape":
        queries = queries[:1]
    if wrong == "stride":
        keys = keys.T.contiguous().T
    if wrong == "new":
        more["new_values"] = torch.zeros(2, 7)
    if wrong == "places":
        more["places"] = torch.zeros(2, dtype=torch.int32)
    if wrong == "weights":
        more["weights"] = torch.zeros(2, 1, 9).double()
    with pytest.raises(CokvError, match="contiguous tensors on the CPU"):
        compiled.step(queries, keys, values, starts, lengths, 1.0, **more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_loses_no_more_than_transformers_own_attention(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(9, n, 64, generator=generator).to(dtype) for n in (4, 700, 700))
    exact = (q.double() @ k.double().transpose(1, 2) * 0.5).softmax(-1) @ v.double()
    sdpa = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.5)
    out, _ = compiled.attend(q, k.flatten(0, 1), v.flatten(0, 1), torch.arange(9) * 700, torch.full((9,), 700), 0.5)
    assert (out.double() - exact).norm() < 1.2 * (sdpa.double() - exact).norm()


def test_threads_change_nothing() -> None:
    inputs = storage([300, 0, 150, 700, 5, 64], 4, 64, 64, torch.float32, 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = compiled.attend(*inputs, 0.1)
        torch.set_num_threads(3)
        torch.testing.assert_close(compiled.attend(*inputs, 0.1), alone, rtol=0, atol=0)
    finally:
        torch.set_num_threads(before)


# ---- in a cache


def test_it_is_chosen_on_the_cpu_and_answers_as_the_reference(
    make_model: Callable[..., Any], prompt: Callable[..., torch.Tensor], uneven_mask: Callable[..., torch.Tensor]
) -> None:
    model = make_model()
    prefilled = prefill(model, prompt(60))
    selections = [Selection.from_mask(uneven_mask(3, 2, 60, seed)) for seed in range(2)]
    caches = [RaggedCache.of(prefilled, selections, slack=2, attend=attend) for attend in
              (choose.attend, compiled.attend, reference.attend)]  # fmt: skip
    assert caches[0].attention == ["compiled"] * 3 == caches[1].attention
    logits: list[list[torch.Tensor]] = []
    with torch.no_grad(), ragged_attention(model):
        for cache in caches:
            logits.append([])
            for step in range(7):
                ids, at = torch.tensor([[5 + step], [6]]), torch.full((2, 1), 60 + step)
                logits[-1].append(model(input_ids=ids, position_ids=at, past_key_values=cache).logits)
    torch.testing.assert_close(logits[0], logits[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=0)


# ---- building


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("COKV_CACHE", str(tmp_path))
    build._library.cache_clear()
    yield tmp_path / "compiled"
    build._library.cache_clear()


SMALL = "int one(void) { return NUMBER; }\n"


def test_a_library_is_built_once_for_each_set_of_macros(empty_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "small.c"
    source.write_text(SMALL)
    assert build.library(source, ("NUMBER=1",)).one() == 1
    assert build.library(source, ("NUMBER=2",)).one() == 2
    built = {path: path.stat().st_mtime_ns for path in empty_folder.iterdir()}
    build._library.cache_clear()
    assert build.library(source, ("NUMBER=1",)).one() == 1
    assert {path: path.stat().st_mtime_ns for path in empty_folder.iterdir()} == built and len(built) == 2


def test_what_cannot_be_compiled_says_why_and_is_not_tried_twice(
    empty_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "wrong.c"
    source.write_text("int one(void) { return nothing; }\n")
    for _ in range(2):
        with pytest.raises(build.Unavailable, match=r"cannot compile wrong\.c: .*nothing"):
            build.library(source)
        monkeypatch.setattr(build.subprocess, "run", None)
    assert not list(empty_folder.iterdir())
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(build.Unavailable, match="no-such-compiler is not there"):
        build.library(source, ("OTHER",))


def test_without_a_compiler_torch_attends_and_says_so() -> None:
    code = textwrap.dedent(
        """
        import torch
        from cokv.cache.attention import choose
        print(choose.choose(torch.device("cpu"), torch.float32, 64))
        print(choose.missing("compiled"))
        try:
            choose.get_backend("compiled")
        except Exception as error:
            print(error)
        """
    )
    got = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, build.OFF: "1"}
    ).stdout.splitlines()
    assert got[0] != "compiled" and got[1] == "COKV_NO_COMPILE is set"
    assert "attention 'compiled' is not available: COKV_NO_COMPILE is set; available: auto, reference" in got[2]
