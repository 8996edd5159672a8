"""A step over pages in one function is the step in parts: the same pages, in the same places, and the same output."""

from __future__ import annotations

import pytest
import torch

from cokv.cache.attention import choose, pages, reference
from cokv.cache.attention.backend import Backend
from cokv.cache.policies.recall import Recall
from cokv.cache.prefill import PrefillLayer
from cokv.cache.storage.recalled import RecalledRows

needs_c = pytest.mark.skipif(
    pages.why_not(torch.device("cpu"), torch.float32) is not None, reason="needs a C compiler for a step over pages"
)


def stores(dim: int, limit: int, page: int, dtype: torch.dtype, softcap: float | None) -> tuple[RecalledRows, ...]:
    """The same tokens in three rows of two heads, of unlike lengths; the second store takes a step in parts."""
    draw = torch.Generator().manual_seed(dim)
    keys, values = (torch.randn(2, 150, dim, generator=draw).to(dtype) for _ in range(2))
    layer = PrefillLayer(0, keys, values, torch.empty(2, 0, dim, dtype=dtype), dim**-0.5)
    kept = [[torch.arange(n) for n in row] for row in ([150, 3], [0, 97], [64, 20])]
    policies = [Recall(limit, page)] * 3
    return tuple(
        RecalledRows([layer], kept, policies, 4, Backend(attend, softcap))
        for attend in (choose.attend, reference.attend)
    )


@needs_c
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("dim", "group", "limit", "page"), [(64, 3, 64, 16), (80, 1, 37, 8), (20, 9, 20, 5), (32, 2, 9, 1)]
)
def test_a_step_in_one_is_the_step_in_parts(dtype: torch.dtype, dim: int, group: int, limit: int, page: int) -> None:
    draw, came_back = torch.Generator().manual_seed(1), 0
    for softcap in (None, 3.0):
        both = stores(dim, limit, page, dtype, softcap)
        assert both[0].steps_apart is None and "reference" in str(both[1].steps_apart)
        for step in range(40):
            if step == 15:  # rows leave without moving storage
                for store in both:
                    store.select(torch.tensor([2, 0]), copies=False)
            if step == 25:
                for store in both:
                    store.select(torch.tensor([1, 1, 0]), copies=True)
            rows, before = len(both[0].counts) // 2, both[0].numbers.clone()
            queries = torch.randn(rows, 2 * group, 1, dim, generator=draw)
            new = torch.randn(2, rows, 2, 1, dim, generator=draw).to(dtype)
            got, expected = (store.attend(queries, *new, dim**-0.5) for store in both)
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
            for name in ("numbers", "counts", "filled"):
                assert torch.equal(getattr(both[0], name), getattr(both[1], name)), (step, name)
            came_back += int((both[0].numbers != before).sum())
        for name in ("k", "v", "low", "high"):
            assert torch.equal(*(getattr(store, name) for store in both)), name
    assert came_back > 50, "pages that never change test nothing"


@needs_c
def test_several_threads_give_what_one_gives() -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            store, draw = stores(64, 64, 16, torch.float32, None)[0], torch.Generator().manual_seed(2)
            queries, new = torch.randn(3, 4, 1, 64, generator=draw), torch.randn(2, 3, 2, 1, 64, generator=draw)
            results.append([store.attend(queries, *new, 0.125) for _ in range(5)][-1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_what_the_c_function_cannot_serve_says_why() -> None:
    (store, _) = stores(8, 16, 4, torch.float64, None)
    assert "float64; expected float32, bfloat16 or float16" in str(store.steps_apart)
    assert "cuda; expected the CPU" in str(pages.why_not(torch.device("cuda"), torch.float32))
