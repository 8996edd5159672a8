"""Trains the embedded model: `python -m suite.embedded.train --out DIR --minutes 90`.

Resumes from DIR; logs one JSON line a report. `--start FOLDER` goes on from another checkpoint's weights:
words of its vocabulary keep their embeddings, others get new ones.

The order is what matters. Stage 1 shows repeated random tokens only, until the induction circuit has formed; stage 2
is the task mixture, with the context doubled whenever the mean exact match passes `--threshold`. The learning rate
falls as the context grows and along a cosine at the end; steps whose gradient is not finite are skipped.
"""

import argparse
import json
import platform
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from cokv.types import replace_file
from suite.embedded import schedule
from suite.embedded.feed import Feed
from suite.embedded.initial_weights import config, load_weights, plant_previous_token_head
from suite.embedded.mixture import IGNORED, Batch
from suite.embedded.schedule import State
from suite.embedded.tokenizer import build as build_tokenizer


def exact_match(logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Share of right tokens and whether all of a row's were right, from logits at the labelled places: [count, 2]."""
    right = (logits.argmax(-1) == labels).float()
    total = torch.zeros(count, device=right.device).index_add_(0, rows, torch.ones_like(right))
    hits = torch.zeros(count, device=right.device).index_add_(0, rows, right)
    return torch.stack([hits / total.clamp(min=1), (hits == total).float()], 1)


class Trainer:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.out = args, Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(args.seed)  # initial weights; this process does nothing else
        self.tokenizer = build_tokenizer()
        self.device = torch.device(args.device)
        self.config = config(args, self.tokenizer)
        self.model = LlamaForCausalLM._from_config(self.config, attn_implementation="eager").to(self.device)
        self.state = State()
        plant_previous_token_head(self.model)
        if args.start:
            load_weights(args.start, self.model, self.tokenizer)
            self.state.stage, self.state.length = "tasks", args.start_length
        embedding = self.model.get_input_embeddings().weight
        matrices = [p for p in self.model.parameters() if p.ndim > 1 and p is not embedding]
        plain = [p for p in self.model.parameters() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [embedding], "weight_decay": 0.0, "share": args.embedding_rate},
                {"params": matrices, "weight_decay": args.weight_decay, "share": 1.0},
                {"params": plain, "weight_decay": 0.0, "share": 1.0},
            ],
            lr=args.rate,
            betas=(0.9, 0.98),
        )
        self.recent: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=args.memory))
        self.resume()
        self.body = torch.compile(self.model.model, dynamic=False) if args.compile else self.model.model

    def resume(self) -> None:
        file = self.out / "checkpoint.pt"
        if file.exists():
            saved = torch.load(file, map_location=self.device, weights_only=True)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.optimizer.param_groups[0]["share"] = self.args.embedding_rate
            self.state = State(**saved["state"])

    def save(self) -> None:
        weights = self.model.state_dict()
        saved = {"model": weights, "optimizer": self.optimizer.state_dict(), "state": asdict(self.state)}
        part = self.out / "checkpoint.part"
        torch.save(saved, part)
        replace_file(part, self.out / "checkpoint.pt")
        # The weights, tied head left out: what ships.
        shipped = {k: v.detach().float().cpu().contiguous() for k, v in weights.items() if k != "lm_head.weight"}
        save_file(shipped, str(self.out / "model.part"), metadata={"format": "pt"})
        replace_file(self.out / "model.part", self.out / "model.safetensors")
        self.config.save_pretrained(self.out)
        names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
        PreTrainedTokenizerFast(tokenizer_object=self.tokenizer, **names).save_pretrained(self.out)

    def log(self, **fields: object) -> None:
        line = json.dumps({**asdict(self.state), **fields})
        with (self.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def rate(self) -> float:
        return schedule.rate(self.state, self.args)

    @property
    def tokens(self) -> int:
        """Tokens of a batch: half as many in stage 1, where the number of steps is what counts."""
        return int(self.args.tokens) // (2 if self.state.stage == "copy" else 1)

    def loader(self) -> Iterator[Batch]:
        s = self.state
        kinds = ("copy",) if s.stage == "copy" else None
        seed = f"{self.args.seed}/{s.stage}/{s.step}"
        feed = Feed(self.tokenizer.to_str(), s.length, self.tokens, seed, kinds, s.span, self.args.max_length)
        return feed.load(self.args.workers)

    def step(self, loaded: Batch) -> float | None:
        ids, labels, positions, kinds = loaded
        ids, labels, positions = ids.to(self.device), labels.to(self.device), positions.to(self.device)
        length = ids.shape[1]
        dtype = torch.bfloat16
        mask = torch.full((length, length), torch.finfo(dtype).min, dtype=dtype, device=self.device).triu(1)
        mask = mask.expand(ids.shape[0], 1, length, length)
        with torch.autocast(self.device.type, dtype):
            hidden = self.body(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)[0]
            rows, places = torch.nonzero(labels[:, 1:] != IGNORED, as_tuple=True)
            wanted = labels[rows, places + 1]
            logits = self.model.lm_head(hidden[rows, places]).float()
        loss = F.cross_entropy(logits, wanted)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not torch.isfinite(norm):
            self.state.skipped += 1
            return None
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate() * group["share"]
        self.optimizer.step()
        matches = exact_match(logits.detach(), wanted, rows, len(kinds)).tolist()
        for kind, (share, whole) in zip(kinds, matches, strict=True):
            self.recent[kind].append((share, whole))
        return loss.item()

    def scores(self) -> dict[str, float]:
        """Recent teacher-forced exact match per kind (share of right tokens for copy)."""
        return {k: round(float(np.mean([v[k != "copy"] for v in d])), 3) for k, d in sorted(self.recent.items())}

    def advance(self, scores: dict[str, float]) -> bool:
        """Moves to the next stage or context length when this one is learned. True when it moved."""
        moved = schedule.advance(self.state, scores, self.args)
        if moved:
            self.recent.clear()
        return moved

    def run(self) -> None:
        args, s = self.args, self.state
        self.log(
            event="start",
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            cpu=platform.processor() or platform.machine(),
        )
        losses: list[float] = []
        loader, last_save, clock = self.loader(), time.monotonic(), time.monotonic()
        while s.minutes < args.minutes:
            loss = self.step(next(loader))
            now = time.monotonic()
            s.step += 1
            s.since += 1
            s.minutes += (now - clock) / 60
            s.tokens += self.tokens
            clock = now
            if loss is not None:
                losses.append(loss)
            if s.step % args.every == 0:
                scores = self.scores()
                self.log(loss=round(float(np.mean(losses)), 4) if losses else None, rate=self.rate(), scores=scores)
                losses = []
                if self.advance(scores):
                    self.save()
                    loader = self.loader()
                elif now - last_save > 120:
                    self.save()
                    last_save = now
        self.save()
        self.log(event="end", scores=self.scores())


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The settings of a training, from these words or the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True)
    add("--start", type=Path, help="folder of a checkpoint to begin from")
    add("--start-length", type=int, default=256, help="tokens of context with --start")
    add("--minutes", type=float, default=90)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--layers", type=int, default=4)
    add("--width", type=int, default=256)
    add("--intermediate", type=int, default=512)
    add("--heads", type=int, default=8)
    add("--kv-heads", type=int, default=4)
    add("--head-dim", type=int, default=32)
    add("--max-length", type=int, default=1024, help="longest context of the curriculum, tokens")
    add("--tokens", type=int, default=8192, help="tokens of a batch")
    add("--rate", type=float, default=3e-3)
    add("--embedding-rate", type=float, default=1.0, help="the embedding's share of the learning rate")
    add("--weight-decay", type=float, default=0.05)
    add("--warmup", type=int, default=50, help="steps, at the start of each stage")
    add("--cool", type=float, default=0.35, help="last share of the time over which the rate falls to nothing")
    add("--begun", type=float, default=0.6, help="copy accuracy that doubles the span in stage 1")
    add("--copied", type=float, default=0.9, help="copy accuracy that ends stage 1")
    add("--threshold", type=float, default=0.8, help="mean exact match that doubles the context")
    add("--memory", type=int, default=100, help="recent examples per kind that count")
    add("--every", type=int, default=25, help="steps between reports")
    add("--workers", type=int, default=1)
    add("--seed", type=int, default=0)
    add("--no-compile", dest="compile", action="store_false")
    return parser.parse_args(argv)


def main() -> None:
    Trainer(arguments()).run()


if __name__ == "__main__":
    main()
