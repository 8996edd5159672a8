"""The Triton kernel of packed_triton.py: attention over some groups of packed tokens. Importing it needs triton."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def attend_groups(
    queries,  # float32 [segments, rows, dim]
    counts,  # int64 [segments]: groups of each
    before,  # int64 [segments]: groups of those before it
    places,  # int64 [all groups]: where each lies
    key_codes,  # uint8 [groups, dim, KEY_BYTES]
    key_low,  # [groups, dim]
    key_step,
    value_codes,  # uint8 [groups, GROUP, PARTS, VALUE_BYTES]
    value_low,  # [groups, GROUP, PARTS]
    value_step,
    out,  # float32 [segments, splits, rows, dim]
    lse,  # float32 [segments, splits, rows]
    scaling,
    softcap,
    rows,
    dim,
    each,  # groups of a program
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    CHANNELS: tl.constexpr,  # of a value's part
    PARTS: tl.constexpr,
    KEY_BYTES: tl.constexpr,
    VALUE_BYTES: tl.constexpr,
    TOKENS: tl.constexpr,  # GROUP, rounded up to what a product takes
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    CAPPED: tl.constexpr,
):
    PER_BYTE: tl.constexpr = 8 // BITS
    MASK: tl.constexpr = (1 << BITS) - 1
    segment, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    r = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    d, t = tl.arange(0, DIM), tl.arange(0, TOKENS)
    some, there = t < GROUP, d < dim
    held, first = tl.load(counts + segment), tl.load(before + segment)
    at = (segment * rows + r)[:, None] * dim + d[None, :]
    mask = (r < rows)[:, None] & there[None, :]
    q = tl.load(queries + at, mask=mask, other=0.0) * scaling
    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, DIM], tl.float32)
    last = tl.minimum((part + 1) * each, held)
    for group in range(part * each, last):
        place = tl.load(places + first + group)
        of_keys = place * dim + d
        low = tl.load(key_low + of_keys, mask=there, other=0.0).to(tl.float32)
        step = tl.load(key_step + of_keys, mask=there, other=0.0).to(tl.float32)
        both = there[:, None] & some[None, :]
        codes = tl.load(key_codes + of_keys[:, None] * KEY_BYTES + (t // PER_BYTE)[None, :], mask=both, other=0)
        codes = (codes.to(tl.int32) >> ((t % PER_BYTE) * BITS)[None, :]) & MASK
        keys = codes.to(tl.float32) * step[:, None] + low[:, None]
        logits = tl.dot(q, keys, input_precision="ieee")
        if CAPPED:
            up = tl.exp(-2.0 * tl.abs(logits / softcap))
            size = softcap * (1.0 - up) / (1.0 + up)
            logits = tl.where(logits < 0, -size, size)
        logits = tl.where(some[None, :], logits, float("-inf"))
        now = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp(logits - now[:, None])
        keep = tl.exp(highest - now)
        of_values = ((place * GROUP + t) * PARTS)[:, None] + (d // CHANNELS)[None, :]
        both = some[:, None] & there[None, :]
        low2 = tl.load(value_low + of_values, mask=both, other=0.0).to(tl.float32)
        step2 = tl.load(value_step + of_values, mask=both, other=0.0).to(tl.float32)
        inside = d % CHANNELS
        codes = tl.load(value_codes + of_values * VALUE_BYTES + (inside // PER_BYTE)[None, :], mask=both, other=0)
        codes = (codes.to(tl.int32) >> ((inside % PER_BYTE) * BITS)[None, :]) & MASK
        values = codes.to(tl.float32) * step2 + low2
        acc = acc * keep[:, None] + tl.dot(weights, values, input_precision="ieee")
        total = total * keep + tl.sum(weights, 1)
        highest = now
    has_tokens = total > 0
    acc = acc / tl.where(has_tokens, total, 1.0)[:, None]
    splits = tl.num_programs(1)
    line = (segment * splits + part) * rows + r
    tl.store(out + line[:, None] * dim + d[None, :], acc, mask=mask)
    tl.store(
        lse + line,
        tl.where(has_tokens, highest + tl.log(tl.where(has_tokens, total, 1.0)), float("-inf")),
        mask=r < rows,
    )
