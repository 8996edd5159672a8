"""lm-evaluation-harness on compressed caches: its model back end `cokv`.

    cokv lm-eval --model cokv --model_args pretrained=DIR,method=snapkv,kv_budget=128 --tasks TASK

Each context is prefilled once, alone, and compressed; what follows it is read on the compressed cache. Tokenizing and
cutting follow lm-eval's own `hf` model, so at the full budget the results are the same.

    generate_until           greedy only; sampling is refused
    loglikelihood            the continuation's tokens are read on the compressed cache
    loglikelihood_rolling    has no context that could be compressed: with method=full only

`first_token` decides where the first token after the context comes from: "prefill", the uncompressed prefill, or
"compressed", the context's last token run again on the compressed cache. By default generation uses "prefill", as the
released codes do, and log-likelihoods use "compressed", because a choice of one token would otherwise not depend on the
compression at all. A context of one token is not compressed.

Importing this module needs the package lm-eval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, get_args

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string
from tqdm import tqdm

import cokv
from cokv.cache.attention.attachment import ragged_attention
from cokv.cache.prefill import Prefill
from cokv.decode.batches import Row
from cokv.decode.session import DecodeSession, FirstToken, start_session
from cokv.methods.registry import get_method
from cokv.model.loading import load_model
from cokv.profiles.load import load_profile
from cokv.types import CokvError, Infeasible, KVBudget
from suite.integrations.lm_eval_requests import GenerationOptions, cut, generation_options
from suite.run.answers import Request, compress_prompt

IDENTITY = "cokv identity"  # key in a response cache for the model, method and budget of its responses


@register_model("cokv")
class CompressedLM(TemplateLM):
    """One model, one method, one budget. `params`: parameters of the method.

    enable_thinking: passed to the chat template where it is given, as Qwen3's takes it.
    """

    def __init__(
        self,
        pretrained: str = "embedded",
        method: str = "full",
        kv_budget: int | str | None = None,
        preset: str = "normalized",
        profile: str | None = None,
        first_token: str | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "float32",
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        enable_thinking: bool | None = None,
        **params: Any,
    ) -> None:
        super().__init__()
        if first_token is not None and first_token not in get_args(FirstToken):
            raise CokvError(f"first_token is {first_token!r}; expected one of {', '.join(get_args(FirstToken))}")
        if str(batch_size) not in ("1", "auto", "None"):
            raise CokvError(f"batch_size is {batch_size!r}, expected 1: each context is prefilled alone; leave it out")
        self.method = get_method(method, preset, **params)
        if self.method.takes_budget and kv_budget is None:
            raise CokvError(
                f"method {method} without kv_budget; add kv_budget=N, KV slots per head or a share such as 20%, to "
                "model_args"
            )
        self.kv_budget = KVBudget.parse(kv_budget) if self.method.takes_budget else None
        self.first_token = first_token
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.loaded = load_model(pretrained, revision, device, dtype)
        heads = self.loaded.shape.num_layers, self.loaded.shape.num_kv_heads
        self.profile: Any = None if profile is None else load_profile(profile, heads)
        self.method.check(self.kv_budget, *heads, self.profile, self.loaded.shape.group_size)
        self.tokenizer: Any = self.loaded.tokenizer
        self.max_length = max_length or self.loaded.shape.context_length
        self.max_gen_toks = max_gen_toks
        self.add_bos_token = add_bos_token
        self._chat = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
        self._device = self.loaded.device
        self._last: tuple[tuple[int, ...], Prefill, Row] | None = None
        self._contexts = self._kept_bytes = self._full_bytes = 0
        self._counted = False  # whether these include the last context

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> CompressedLM:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> CompressedLM:
        """--model_args take precedence. lm-eval's default device, cuda:0, is ignored without CUDA."""
        config = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if config.get("device") == "cuda:0" and not torch.cuda.is_available():
            del config["device"]
        return cls(**{**config, **arg_dict})

    # lm-eval's interface

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        texts = []
        for request in tqdm(requests, desc="generate_until", disable=disable_tqdm):
            context, options = request.args
            generation = generation_options(options, self.max_gen_toks)
            room = self.max_length - generation.max_new_tokens
            if room < 1:
                raise CokvError(
                    f"{generation.max_new_tokens} tokens to generate leave no room in {self.max_length} positions; "
                    "set max_gen_toks lower"
                )
            texts.append(self._generate(self.tok_encode(context)[-room:], generation))
            self.cache_hook.add_partial("generate_until", (context, options), texts[-1])
        return texts

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        if self.method.name != "full":
            raise CokvError(
                f"a task asks for loglikelihood_rolling, which has no context that {self.method.name} could "
                "compress; use method=full, or a task with contexts"
            )
        totals = []
        for request in tqdm(requests, desc="loglikelihood_rolling", disable=disable_tqdm):
            (text,) = request.args
            windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, 1)
            pairs = [((None, None), *make_disjoint_window(window)) for window in windows]
            totals.append(sum(value for value, _ in self._loglikelihood_tokens(pairs, disable_tqdm=True)))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = False, **kwargs: Any) -> Any:
        answers = []
        for texts, context, continuation in tqdm(requests, desc="loglikelihood", disable=disable_tqdm):
            whole = (context + continuation)[-(self.max_length + 1) :]
            if not 0 < len(continuation) < len(whole):
                raise CokvError(
                    f"a continuation of {len(continuation)} tokens with a context of {len(context)}; expected at "
                    f"least one of each within {self.max_length} positions"
                )
            answers.append(self._score(whole[: -len(continuation)], continuation))
            if texts[0] is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answers[-1])
        return answers

    # Reading on the compressed cache

    @torch.no_grad()
    def _generate(self, context: Sequence[int], generation: GenerationOptions) -> str:
        eos_text = self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False)
        until = (*generation.until, eos_text)
        tail = 8 + 2 * max(len(term) for term in until)  # tokens that must contain a stop text that has just ended
        tokens: list[int] = []
        with self._reading(context, generation.max_new_tokens, "prefill") as (session, logits):
            while True:
                tokens.append(int(logits[0].argmax()))
                if len(tokens) == generation.max_new_tokens or tokens[-1] in self.loaded.eos_ids:
                    break
                recent = self._text(tokens[-tail:])
                if any(term in recent for term in until if term):
                    break
                logits = session.read(torch.tensor([tokens[-1:]]))[0][:, -1]
        return cut(self._text(tokens), until)

    @torch.no_grad()
    def _score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
        """The continuation's log-likelihood, and whether greedy decoding begins with it."""
        ids = torch.tensor(continuation)
        with self._reading(context, len(ids), "compressed") as (session, first):
            logits = first
            if len(ids) > 1:
                logits = torch.cat([first, session.read(ids[None, :-1], every=True)[0][0].to(first.dtype)])
        logits = logits.float().cpu()
        log_probabilities = logits.log_softmax(-1).gather(-1, ids[:, None])
        return float(log_probabilities.sum()), bool((logits.argmax(-1) == ids).all())

    @contextmanager
    def _reading(
        self, context: Sequence[int], new_tokens: int, default: FirstToken
    ) -> Iterator[tuple[DecodeSession, torch.Tensor]]:
        """A session that has read the compressed context, and the logits [1, vocab_size] of the next token."""
        read, row = self._compressed(context)
        first: Any = "prefill" if read.seq_len == 1 else self.first_token or default
        with (
            ragged_attention(self.loaded.model),
            start_session(self.loaded.model, read, [row], "ragged", new_tokens, None, first) as (session, logits, _),
        ):
            if not self._counted:
                self._contexts, self._counted = self._contexts + 1, True
                self._kept_bytes += session.held[0].bytes
                self._full_bytes += read.full_bytes
            yield session, logits

    def _compressed(self, context: Sequence[int]) -> tuple[Prefill, Row]:
        """The context's prefill and row, cached for the next request, which often has the same context."""
        key = tuple(context)
        if self._last is None or self._last[0] != key:
            self._last = None
            request = Request(self.method, self.kv_budget, self.profile)
            read, (compressed,) = compress_prompt(self.loaded, torch.tensor(key), [request])
            if compressed.row is None:
                raise Infeasible(compressed.infeasible)
            self._last = (key, read, compressed.row)
            self._counted = False
        return self._last[1], self._last[2]

    # Tokens and identity

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """As in lm-eval's `hf` model: the tokenizer's default, but no second BOS if the text begins with one."""
        if add_special_tokens is None:
            has_bos = string.startswith(self.tokenizer.decode([self.prefix_token_id]))
            add_special_tokens = False if has_bos else self.add_bos_token
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **options))

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_token_id
        return int(self.eot_token_id if bos is None else bos)

    @property
    def tokenizer_name(self) -> str:
        return self.loaded.name.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
                **self._chat,
            )
        )

    def _identity(self) -> dict[str, Any]:
        return {
            "cokv_version": cokv.__version__,
            **self.loaded.identity(),
            **{**self.method.spec(), "variant": self.method.variant},
            "device": str(self.loaded.device),
            "kv_budget": None if self.kv_budget is None else self.kv_budget.nominal,
            "first_token": {
                "generate_until": self.first_token or "prefill",
                "loglikelihood": self.first_token or "compressed",
            },
            "profile": None if self.profile is None else sha256(self.profile.values.tobytes()).hexdigest()[:16],
            "max_length": self.max_length,
            **self._chat,
        }

    def get_model_info(self) -> dict[str, Any]:
        """For lm-eval's results file: the model and method, and the bytes kept of all contexts so far."""
        memory = {
            "contexts": self._contexts,
            "kept_bytes": self._kept_bytes,
            "full_bytes": self._full_bytes,
        }
        return {"cokv": {**self._identity(), **memory}}

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuses a response cache with another model's responses, since lm-eval's cache is keyed by requests only."""
        stored = cache_hook.dbdict
        if stored is not None:
            identity = self._identity()
            if len(stored) and stored.get(IDENTITY) != identity:
                raise CokvError(
                    f"the response cache {stored.filename} holds responses of another model, method or budget; "
                    "give each its own --use_cache"
                )
            stored[IDENTITY] = identity
        super().set_cache_hook(cache_hook)
