"""Pages in CPU memory: they stay where they were put, and come back right through a buffer of any size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cokv.cache.storage.host_pages import HostPages
from cokv.cache.storage.places import free_places

DIM = 4


@given(capacity=st.integers(0, 30), occupied=st.sets(st.integers(0, 29)), count=st.integers(0, 30))
def test_free_places_are_the_lowest_that_nobody_has(capacity: int, occupied: set[int], count: int) -> None:
    occupied = {place for place in occupied if place < capacity}
    places, needed = free_places(torch.tensor(sorted(occupied), dtype=torch.int64), capacity, count)
    assert places.tolist() == [place for place in range(100) if place not in occupied][:count]
    fits = capacity - len(occupied) >= count
    assert needed == capacity if fits else needed >= max(capacity + capacity // 4, len(occupied) + count)


def test_pages_pass_a_buffer_smaller_than_what_is_asked_for() -> None:
    pages = torch.randn(11, 2, 4, DIM, generator=torch.Generator().manual_seed(0))
    host = HostPages(pages, torch.tensor([7, 0, 4]))
    host.buffer = torch.empty(3, 2, 4, DIM)
    segments, numbers = torch.tensor([2, 0, 0, 2, 0, 0, 0]), torch.tensor([3, 6, 0, 0, 2, 2, 5])
    where = host.buffer.data_ptr()
    assert torch.equal(host.get(segments, numbers), pages[[10, 6, 0, 7, 2, 2, 5]])
    assert host.buffer.data_ptr() == where and host.storage_bytes == (14 + 3) * 2 * 4 * DIM * 4
    assert host.get(segments[:0], numbers[:0]).shape == (0, 2, 4, DIM)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_pages_and_the_buffer_are_pinned_and_stay_where_they_are() -> None:
    pages = torch.randn(11, 2, 4, DIM, device="cuda")
    host = HostPages(pages, torch.tensor([7, 0, 4], device="cuda"))
    assert host.buffer is not None and host.pool.is_pinned() and host.buffer.is_pinned()
    where = host.pool.data_ptr(), host.buffer.data_ptr()
    wanted_pages = torch.tensor([2, 0, 0, 2, 0], device="cuda"), torch.tensor([3, 6, 0, 0, 2], device="cuda")
    host.put(torch.tensor([1], device="cuda"), torch.tensor([0], device="cuda"), pages[:1] + 1)
    for _ in range(3):
        assert torch.equal(host.get(*wanted_pages), pages[[10, 6, 0, 7, 2]])
    host.select(torch.tensor([1, 2], device="cuda"))
    assert torch.equal(
        host.get(*(torch.tensor(one, device="cuda") for one in ([1, 0], [3, 0]))),
        pages[[10, 0]] + torch.tensor([0, 1], device="cuda")[:, None, None, None],
    )
    assert where == (host.pool.data_ptr(), host.buffer.data_ptr())
