"""A stream of training batches, from worker processes or from this one."""

from collections.abc import Iterator

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset

from suite.embedded.mixture import Batch, Mixture, batch


class Feed(IterableDataset[Batch]):
    """Batches of one stage, the same from a worker process or, without workers, from this one."""

    def __init__(
        self, tokenizer: str, length: int, tokens: int, seed: str, kinds: tuple[str, ...] | None, span: int, reach: int
    ) -> None:
        self.args = (tokenizer, length, tokens, seed, kinds, span, reach)

    def __iter__(self) -> Iterator[Batch]:
        tokenizer, length, tokens, seed, kinds, span, reach = self.args
        worker = torch.utils.data.get_worker_info()
        if worker:
            torch.set_num_threads(1)
        seed = f"{seed}/{worker.id if worker else 0}"
        mixture = Mixture(Tokenizer.from_str(tokenizer), length, seed, kinds, span)
        ends = tuple(mixture.plain.encode(text)[0] for text in (".", "\n"))
        examples, rng = iter(mixture), np.random.default_rng(mixture.rng.getrandbits(63))
        while True:
            yield batch(examples, max(1, tokens // length), length, rng, reach, ends)

    def load(self, workers: int) -> Iterator[Batch]:
        return iter(DataLoader(self, batch_size=None, num_workers=workers, prefetch_factor=8 if workers else None))
