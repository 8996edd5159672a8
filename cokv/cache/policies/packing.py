"""Numbers in a few bits: asymmetric rounding between the smallest and the largest of a group, packed into bytes.

A group of numbers is stored as codes 0 .. 2^bits - 1, its smallest number and the step s between codes, both in the
numbers' dtype. The step is rounded up, so that the codes reach the largest number. Codes are rounded, and numbers made
of them, in float32 from what is stored; the cast to the dtype comes last.

With m the largest magnitude in the group, what comes back is off by at most s / 2 + 4 * 2^-23 m before the cast. A
cast to half precision adds at most half the spacing of the dtype: eps / 2 times what comes back, eps being 2^-7 for
bfloat16 and 2^-10 for float16; and no more than the error that was there, since what was stored is a number of the
dtype, so all is at most s + 8 * 2^-23 m. Arithmetic for float64 is in float64: 2^-52 in place of 2^-23.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cokv.types import CokvError

WIDTHS = (2, 4, 8)


@dataclass(frozen=True, eq=False)
class Packed:
    """Groups along the last dim. codes uint8 [..., groups, ceil(group * bits / 8)]; low, step [..., groups]."""

    codes: torch.Tensor
    low: torch.Tensor
    step: torch.Tensor
    bits: int

    @property
    def nbytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (self.codes, self.low, self.step))

    def unpacked(self, group: int) -> torch.Tensor:
        """[..., groups * group], in the dtype of low and step."""
        wide = torch.promote_types(self.step.dtype, torch.float32)
        per_byte = 8 // self.bits
        shifts = torch.arange(per_byte, device=self.codes.device, dtype=torch.uint8) * self.bits
        codes = (self.codes[..., None] >> shifts) & (2**self.bits - 1)
        codes = codes.flatten(-2)[..., :group].to(wide)
        numbers = codes * self.step[..., None].to(wide) + self.low[..., None].to(wide)
        return numbers.flatten(-2).to(self.step.dtype)

    def __getitem__(self, rows: torch.Tensor) -> Packed:
        return Packed(self.codes[rows], self.low[rows], self.step[rows], self.bits)

    def __setitem__(self, rows: torch.Tensor, other: Packed) -> None:
        assert self.bits == other.bits
        self.codes[rows], self.low[rows], self.step[rows] = other.codes, other.low, other.step

    def enlarged(self, capacity: int) -> Packed:
        """The same in storage for so many rows; what the others hold is undefined."""

        def one(part: torch.Tensor) -> torch.Tensor:
            return torch.cat([part, part.new_empty(capacity - len(part), *part.shape[1:])])

        return Packed(one(self.codes), one(self.low), one(self.step), self.bits)


def pack(numbers: torch.Tensor, group: int, bits: int) -> Packed:
    """Groups of `group` numbers along the last dim, which it must divide."""
    if bits not in WIDTHS:
        raise CokvError(f"numbers of {bits} bits; expected one of {', '.join(map(str, WIDTHS))}")
    assert numbers.shape[-1] % group == 0, (numbers.shape, group)
    grouped = numbers.unflatten(-1, (-1, group)).to(torch.promote_types(numbers.dtype, torch.float32))
    low = grouped.amin(-1)
    step = _step(grouped.amax(-1) - low, bits, numbers.dtype)
    codes = ((grouped - low[..., None]) / step[..., None].to(grouped.dtype)).round()
    codes = codes.clamp(0, 2**bits - 1).to(torch.uint8)
    per_byte = 8 // bits
    codes = torch.nn.functional.pad(codes, (0, -group % per_byte)).unflatten(-1, (-1, per_byte))
    shifts = torch.arange(per_byte, device=codes.device, dtype=torch.uint8) * bits
    return Packed((codes << shifts).sum(-1, dtype=torch.uint8), low.to(numbers.dtype), step, bits)


def _step(spread: torch.Tensor, bits: int, dtype: torch.dtype) -> torch.Tensor:
    """The least number of the dtype that leads over the spread in 2^bits - 1 steps; 1 where there is no spread."""
    step = (spread / (2**bits - 1)).to(dtype)
    as_bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[step.element_size()]
    above = (step.view(as_bits) + 1).view(dtype)  # of floats that are not negative, the next is the next integer
    step = torch.where(step.to(spread.dtype) * (2**bits - 1) < spread, above, step)
    return torch.where(spread > 0, step, 1)
