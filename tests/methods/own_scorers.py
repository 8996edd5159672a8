"""Scorers as a user would write them, outside the package: one that keeps the contract, and one for each way not to."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ValueNorm:
    """Tokens with long values stay, and the newest `recent` ones."""

    recent: int = 4
    paper = "of one's own"

    @property
    def window_size(self) -> int:
        return 0

    def reserved(self, seq_len: int) -> int:
        return min(self.recent, seq_len)

    def check_budget(self, kv_budget: int) -> None:
        from cokv.types import CokvError

        if kv_budget <= self.recent:
            raise CokvError(f"kv_budget {kv_budget} leaves no slot beside {self.recent} newest tokens; raise it")

    def scores(self, layer) -> torch.Tensor:
        scores = layer.values.float().norm(dim=-1)
        scores[:, scores.shape[1] - self.reserved(scores.shape[1]) :] = torch.inf
        return scores


@dataclass(frozen=True)
class Double(ValueNorm):
    def scores(self, layer) -> torch.Tensor:
        return super().scores(layer).double()


@dataclass(frozen=True)
class PerQueryHead(ValueNorm):
    def scores(self, layer) -> torch.Tensor:
        group = layer.window_queries.shape[0] // layer.keys.shape[0]
        return super().scores(layer).repeat_interleave(group, 0)


@dataclass(frozen=True)
class Divides(ValueNorm):
    def scores(self, layer) -> torch.Tensor:
        scores = super().scores(layer)
        spread = layer.values.float().norm(dim=-1)
        spread = spread.amax(-1, keepdim=True) - spread.amin(-1, keepdim=True)
        return torch.where(scores.isinf(), scores, scores * (spread > 1e-3) / (spread > 1e-3))


@dataclass(frozen=True)
class KeepsMore(ValueNorm):
    def scores(self, layer) -> torch.Tensor:
        scores = super().scores(layer)
        scores[:, 0] = torch.inf
        return scores


@dataclass(frozen=True)
class Draws(ValueNorm):
    def scores(self, layer) -> torch.Tensor:
        return super().scores(layer) + torch.rand(layer.keys.shape[1])


@dataclass(frozen=True)
class InPlace(ValueNorm):
    def scores(self, layer) -> torch.Tensor:
        layer.values.mul_(2)
        return super().scores(layer)


@dataclass(frozen=True)
class Quadratic(ValueNorm):
    def scores(self, layer) -> torch.Tensor:
        keys = layer.keys.float()
        looks = (keys @ keys.transpose(1, 2)).mean(1)
        return torch.where(super().scores(layer).isinf(), torch.inf, looks)


@dataclass(frozen=True)
class FollowsDtype(ValueNorm):
    def scores(self, layer) -> torch.Tensor:
        return super().scores(layer).to(layer.keys.dtype)


@dataclass(frozen=True)
class RefusesAll(ValueNorm):
    def check_budget(self, kv_budget: int) -> None:
        from cokv.types import CokvError

        if kv_budget < 10_000:
            raise CokvError("too small")


@dataclass(frozen=True)
class AcceptsAll(ValueNorm):
    def check_budget(self, kv_budget: int) -> None:
        pass


@dataclass(frozen=True)
class Fraction(ValueNorm):
    def reserved(self, seq_len: int):
        return seq_len / 2


@dataclass
class Thawed:
    window_size: int = 0


@dataclass(frozen=True)
class Needy:
    size: int


@dataclass(frozen=True)
class Half:
    window_size: int = 0
