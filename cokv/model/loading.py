"""Models: loading them (pinned revision or checksum, no remote code) and what the engine must know of one.

Works on any decoder whose attention goes through transformers' attention interface with standard K/V (Llama, Mistral,
Qwen2, Qwen3 are tested). Knows nothing of caches or methods.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cokv.model import gguf_file, store
from cokv.model.chat import fix_date, turn_end
from cokv.model.known import KNOWN
from cokv.model.shape import Shape, model_shape
from cokv.types import CokvError

EMBEDDED = "embedded"
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
GGUF = ".gguf"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model with its tokenizer and its identity. `digest` covers the bytes of weights, config and tokenizer.

    gguf: sha256 of the GGUF file that the model was converted from, None if from none. Its digest is of that file.
    positions: that it is run with, where these are more than its config states; None: the config's.
    """

    name: str
    revision: str | None
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    digest: str
    gguf: str | None = None
    positions: int | None = None

    @cached_property
    def shape(self) -> Shape:
        return model_shape(self.model.config)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a record must say about this model."""
        more = () if self.positions is None else (f"run with {self.positions} positions, more than its config states",)
        return (*self.shape.notes, *more)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Every token that ends generation: what ends a turn of the chat template, the generation config's, and the
        tokenizer's. A config may name only some of them: a Llama-3 ends at two, and conversions lose one."""
        config = getattr(self.model.generation_config, "eos_token_id", None)
        configured = config if isinstance(config, (list, tuple)) else (config,)
        ends = (self._turn_end, *configured, self.tokenizer.eos_token_id)
        return tuple(dict.fromkeys(int(end) for end in ends if end is not None))

    @cached_property
    def _turn_end(self) -> int | None:
        return turn_end(self.tokenizer)

    def identity(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "revision": self.revision,
            "digest": self.digest,
            **({} if self.gguf is None else {"gguf": self.gguf}),
            **({} if self.positions is None else {"positions": self.positions}),
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": self.model.config._attn_implementation,
        }


def load_model(
    name: str = EMBEDDED,
    revision: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    positions: int | None = None,
) -> LoadedModel:
    """Loads a model onto a device, in a dtype. Only safetensors and GGUF, never remote code. Raises CokvError.

    name: `embedded`; a known model (cokv/model/known.py), once it is fetched; a local folder; a `.gguf` file, which is
    converted once into the cache; or a hub model, at a pinned revision. A name in these tables is that model even where
    a folder is called so: write ./NAME for the folder. positions: at least so many, where its config may state
    fewer, of a model whose rotary embedding goes on past those unchanged; it was not trained for what lies there.
    """
    loaded = _loaded(name, revision, device, dtype)
    return loaded if positions is None else _with_positions(loaded, positions)


def _with_positions(loaded: LoadedModel, positions: int) -> LoadedModel:
    config = loaded.model.config.get_text_config(decoder=True)
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kind = rotary.get("rope_type", "default") if isinstance(rotary, dict) else None
    stated = model_shape(config).context_length
    if positions <= stated:
        return loaded
    if kind != "default":
        raise CokvError(
            f"positions is {positions}, and model {loaded.name!r} has {stated} and a rotary embedding of kind "
            f"{kind!r}, which changes with them; leave `positions` out, or set at most {stated}"
        )
    config.max_position_embeddings = positions
    return replace(loaded, positions=positions)


def _loaded(name: str, revision: str | None, device: str, dtype: str) -> LoadedModel:
    if dtype not in DTYPES:
        raise CokvError(f"unknown dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise CokvError(f"unknown device {device!r}; expected 'cpu', 'cuda' or 'cuda:0'")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise CokvError(
            f"device {device!r} was asked for, but torch {torch.__version__} sees no CUDA device; use device 'cpu'"
        )
    if device.startswith("cuda:") and int(device[5:]) >= torch.cuda.device_count():
        raise CokvError(f"no device {device!r}; there are {torch.cuda.device_count()}, counted from cuda:0")
    folder = Path(name).expanduser()
    is_gguf = name not in KNOWN and folder.suffix.lower() == GGUF and not folder.is_dir()
    local = name == EMBEDDED or name in KNOWN or is_gguf or (name != "" and folder.is_dir())
    if local and revision is not None:
        raise CokvError(f"revision is {revision!r}, but model {name!r} is local and has none; leave `revision` out")
    if name == EMBEDDED:
        with as_file(files("cokv.embedded") / "weights") as folder:
            if not folder.is_dir():
                raise CokvError(f"the embedded model's weights are not in {folder}; install the package again")
            return _load(EMBEDDED, folder, None, device, dtype)
    if name in KNOWN:
        return _load_converted(name, _fetched(name), device, dtype)
    if is_gguf:
        return _load_converted(folder.name, gguf_file.folder_of(folder, _say), device, dtype)
    if local:
        return _load(name, folder, None, device, dtype)
    if revision is None or not re.fullmatch("[0-9a-f]{40}", revision):
        raise CokvError(
            f"model {name!r} is no local folder, and a hub model needs a pinned revision, got {revision!r}; "
            "give the 40 digits of a commit as `revision`, or fix the path"
        )
    return _load(name, None, revision, device, dtype)


def _fetched(name: str) -> Path:
    """The folder of a known model. Raises CokvError where it is not on this machine."""
    known = KNOWN[name]
    if not store.is_converted(known.sha256):
        raise CokvError(
            f"known model {name!r} is not on this machine; fetch it ({known.size / 1e6:.0f} MB) with: "
            f"cokv model fetch {name}"
        )
    return store.converted_folder(known.sha256)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _load_converted(name: str, folder: Path, device: str, dtype: str) -> LoadedModel:
    loaded = _load(name, folder, None, device, dtype)
    if loaded.gguf is None:
        raise CokvError(f"{folder} is not as it was converted; delete this folder, and load or fetch {name} again")
    return loaded


def _load(name: str, folder: Path | None, revision: str | None, device: str, dtype: str) -> LoadedModel:
    source = str(folder) if folder else name
    where: dict[str, Any] = {"local_files_only": True} if folder else {"revision": revision}
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
        model_shape(config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=DTYPES[dtype],
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **where,
        )
        model, report = loaded
        if report["missing_keys"]:
            lacking = sorted(report["missing_keys"])
            raise CokvError(
                f"model {name!r}: its weights lack {len(lacking)} tensors, {lacking[0]} among them; "
                "download or train it again"
            )
        if folder and not any((folder / file).is_file() for file in VOCABULARIES):
            raise CokvError(f"model {name!r}: no tokenizer in its folder; expected one of {', '.join(VOCABULARIES)}")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
        fix_date(tokenizer)
    except CokvError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise CokvError(
            f"cannot load model {name!r}{f' at revision {revision!r}' if revision else ''}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}; expected config.json, safetensors and a tokenizer that fit together"
        ) from None
    model.requires_grad_(False).eval().to(device)
    if folder is None:  # a hub model's revision is a commit, which pins its bytes
        return LoadedModel(name, revision, model, tokenizer, str(revision))
    conversion, content = store.conversion_of(folder)
    if conversion is None:
        return LoadedModel(name, None, model, tokenizer, content)
    return LoadedModel(name, None, model, tokenizer, conversion.digest, conversion.sha256)
