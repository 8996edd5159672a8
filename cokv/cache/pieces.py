"""What a layer keeps of a prompt that is read in pieces, so that a method chooses as if it had been read at once.

Keys and values are all there when the last piece has been read; queries are not. A method that looks at a window of the
last queries needs only these. An observer says what it needs: `last_queries`, of which it needs no others, or `add`,
where what it sees of a part of the queries can be put together; one that says neither must see all queries at once,
and is refused before the prompt is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from cokv.model.observe import LayerView, Observation, Observer
from cokv.types import CokvError

# A row's view of the layer, its padding cut off, with these of its last queries: [num_heads, t, head_dim].
View = Callable[[int, torch.Tensor], LayerView]


def check_pieces(observers: Iterable[Observer]) -> None:
    """Refuses observers that must see all queries of a prompt at once."""
    for observer in observers:
        if not hasattr(observer, "last_queries") and not hasattr(observer, "add"):
            raise CokvError(
                f"{type(observer).__name__} must see all queries of a prompt at once; read the prompt in one piece, or "
                "use a method that looks at its last queries, its keys, or sums of attention"
            )


class LayerPieces:
    """Of one layer: the last queries so far, and what has been added up."""

    def __init__(self, window: int, observers: Iterable[Observer]) -> None:
        self.observers = list(observers)
        self.needed = max([window, *(getattr(observer, "last_queries", 0) for observer in self.observers)])
        self.queries: torch.Tensor | None = None  # [rows, num_heads, needed or fewer, head_dim]
        self.sums: dict[tuple[int, Any], Observation | CokvError] = {}  # by row and observer that adds

    def read(self, queries: torch.Tensor, view: View | None) -> torch.Tensor:
        """After a piece with queries [rows, num_heads, t, head_dim]: the last ones of the prompt so far, likewise.

        view: None where nothing is to be added.
        """
        for row in range(len(queries)) if view is not None else ():
            assert view is not None
            for observer in self.adding:
                self._add(row, observer, view(row, queries[row]))
        kept = queries if self.queries is None else torch.cat([self.queries, queries], dim=2)
        self.queries = kept[:, :, max(kept.shape[2] - self.needed, 0) :].clone()
        return self.queries

    @property
    def adding(self) -> list[Any]:
        return [observer for observer in self.observers if hasattr(observer, "add")]

    def _add(self, row: int, observer: Any, view: LayerView) -> None:
        before = self.sums.get((row, observer))
        if isinstance(before, CokvError):
            return
        try:
            seen = observer.observe(view)
            self.sums[row, observer] = seen if before is None else observer.add(before, seen)
        except CokvError as error:
            self.sums[row, observer] = error

    def observed(self, row: int, view: LayerView) -> dict[Any, Observation | CokvError]:
        """What each observer saw of the whole prompt; view: the row's, with the last queries."""
        seen: dict[Any, Observation | CokvError] = {}
        for observer in self.observers:
            try:
                seen[observer] = self.sums[row, observer] if hasattr(observer, "add") else observer.observe(view)
            except CokvError as error:
                seen[observer] = error
        return seen
