"""The Triton kernels of triton_decode.py: attention over parts of segments, and the merge of these parts.

A program of `split` attends `CHUNK` tokens of one segment, so that long and short segments keep the device equally
busy; programs behind a segment's end do nothing. The grid follows from bounds known on the host, lengths are read on
the device. Importing this module needs the package triton.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def split(
    queries,  # [segments, rows, key_width]
    keys,  # [slots, key_width]
    values,  # [slots, value_width]
    new_keys,  # [segments, key_width], with APPEND
    new_values,
    starts,  # int64 [segments]
    lengths,
    places,  # int64 [segments], with PLACES: where the new token goes; else behind the last
    grows,  # uint8 [segments], with GROWS: whether the segment gets longer by it; else all do
    new_lengths,  # int64 [segments], written with APPEND and WHOLE; `merge` writes them else
    out,  # [segments, rows, value_width] with WHOLE, else float32 [segments, splits, rows, value_width]
    lse,  # float32 [segments, rows] with WHOLE, else [segments, splits, rows]
    logits,  # float32 [segments, rows, columns], written with LOGITS
    scaling,
    softcap,
    rows,
    columns,
    key_width,
    value_width,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    KEY_WIDTH: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    APPEND: tl.constexpr,
    PLACES: tl.constexpr,
    GROWS: tl.constexpr,
    CAPPED: tl.constexpr,
    WHOLE: tl.constexpr,
    LOGITS: tl.constexpr,
    WIDE: tl.constexpr,  # queries in float32: products in float32, too
):
    segment = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    start, length = tl.load(starts + segment), tl.load(lengths + segment)
    place = length
    if APPEND:
        if PLACES:
            place = tl.load(places + segment)
        if GROWS:
            length += tl.load(grows + segment)
        else:
            length += 1
        if WHOLE:
            tl.store(new_lengths + segment, length, mask=tl.program_id(2) == 0)
    first = (part * CHUNK).to(tl.int64)
    last = tl.minimum(first + CHUNK, length)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    channel, value_channel = tl.arange(0, KEY_WIDTH), tl.arange(0, VALUE_WIDTH)
    in_keys, in_values = channel < key_width, value_channel < value_width
    query_at = (segment * rows + row[:, None]) * key_width + channel[None, :]
    query = tl.load(queries + query_at, mask=(row < rows)[:, None] & in_keys[None, :], other=0.0)
    if APPEND:
        new_key = tl.load(new_keys + segment * key_width + channel, mask=in_keys, other=0.0)
        new_value = tl.load(new_values + segment * value_width + value_channel, mask=in_values, other=0.0)
        # The one part that reads this slot takes the new token from here, so that nobody waits for the store.
        stores = (place >= first) & (place < last) & (tl.program_id(2) == 0)
        tl.store(keys + (start + place) * key_width + channel, new_key, mask=in_keys & stores)
        tl.store(values + (start + place) * value_width + value_channel, new_value, mask=in_values & stores)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    weighted = tl.zeros((ROWS, VALUE_WIDTH), tl.float32)
    for begin in range(first, last, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = column < last
        slot = start + column
        key = tl.load(
            keys + slot[:, None] * key_width + channel[None, :], mask=inside[:, None] & in_keys[None, :], other=0.0
        )
        value = tl.load(
            values + slot[:, None] * value_width + value_channel[None, :],
            mask=inside[:, None] & in_values[None, :],
            other=0.0,
        )
        if APPEND:
            new = (column == place)[:, None]
            key, value = tl.where(new, new_key[None, :], key), tl.where(new, new_value[None, :], value)
        if WIDE:
            key, value = key.to(tl.float32), value.to(tl.float32)
            logit = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
        else:
            logit = tl.dot(query, tl.trans(key)) * scaling
        if CAPPED:  # softcap * tanh(logit / softcap)
            logit = softcap * (2 * tl.sigmoid(2 * logit / softcap) - 1)
        logit = tl.where(inside[None, :], logit, float("-inf"))
        if LOGITS:
            tl.store(
                logits + (segment * rows + row[:, None]) * columns + column[None, :],
                logit,
                mask=(row < rows)[:, None] & (inside & (column < columns))[None, :],
            )
        above = tl.maximum(highest, tl.max(logit, 1))
        weight, kept = tl.exp(logit - above[:, None]), tl.exp(highest - above)
        total = total * kept + tl.sum(weight, 1)
        if WIDE:  # noqa: SIM108  # a kernel's branches have types of their own
            mean = tl.dot(weight, value, input_precision="ieee")
        else:
            mean = tl.dot(weight.to(value.dtype), value)
        weighted = weighted * kept[:, None] + mean
        highest = above
    if WHOLE:
        mean = weighted / tl.where(total > 0, total, 1.0)[:, None]
        at = segment * rows + row
        tl.store(lse + at, highest + tl.log(total), mask=row < rows)
        tl.store(
            out + at[:, None] * value_width + value_channel[None, :],
            mean,
            mask=(row < rows)[:, None] & in_values[None, :],
        )
    elif first < length:
        at = (segment * tl.num_programs(1) + part) * rows + row
        tl.store(lse + at, highest + tl.log(total), mask=row < rows)
        tl.store(
            out + at[:, None] * value_width + value_channel[None, :],
            weighted / total[:, None],
            mask=(row < rows)[:, None] & in_values[None, :],
        )


@triton.jit
def merge(
    parts,  # float32 [segments, splits, rows, value_width]
    parts_lse,  # float32 [segments, splits, rows]
    lengths,  # int64 [segments]
    grows,  # as in `split`
    new_lengths,  # int64 [segments], written with APPEND
    out,  # [segments, rows, value_width]
    lse,  # float32 [segments, rows]
    weights,  # float32 [segments, rows, columns], with WEIGHTS: logits, made weights in place
    splits,
    rows,
    columns,
    value_width,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    VALUE_WIDTH: tl.constexpr,
    APPEND: tl.constexpr,
    GROWS: tl.constexpr,
    WEIGHTS: tl.constexpr,
):
    segment = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + segment)
    if APPEND:
        if GROWS:
            length += tl.load(grows + segment)
        else:
            length += 1
        if tl.program_id(1) == 0:
            tl.store(new_lengths + segment, length)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, VALUE_WIDTH)
    here = (row < rows)[:, None] & (channel < value_width)[None, :]
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    weighted = tl.zeros((ROWS, VALUE_WIDTH), tl.float32)
    for part in range(0, tl.cdiv(length, CHUNK)):
        at = (segment * splits + part) * rows + row
        part_lse = tl.load(parts_lse + at, mask=row < rows, other=0.0)
        mean = tl.load(parts + at[:, None] * value_width + channel[None, :], mask=here, other=0.0)
        above = tl.maximum(highest, part_lse)
        kept, more = tl.exp(highest - above), tl.exp(part_lse - above)
        total = total * kept + more
        weighted = weighted * kept[:, None] + mean * more[:, None]
        highest = above
    logsumexp = highest + tl.log(total)
    at = segment * rows + row
    tl.store(lse + at, logsumexp, mask=row < rows)
    mean = weighted / tl.where(total > 0, total, 1.0)[:, None]
    tl.store(out + at[:, None] * value_width + channel[None, :], mean, mask=here)
    if WEIGHTS:
        for begin in range(0, columns, BLOCK):
            column = begin + tl.arange(0, BLOCK)
            there = weights + at[:, None] * columns + column[None, :]
            inside = (row < rows)[:, None] & (column < columns)[None, :]
            held = inside & (column < length)[None, :]
            logit = tl.load(there, mask=held, other=float("-inf"))
            tl.store(there, tl.where(held, tl.exp(logit - logsumexp[:, None]), 0.0), mask=inside)
