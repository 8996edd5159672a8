"""A GGUF file as an ordinary model folder: safetensors, config, generation config, tokenizer with its chat template.

transformers reads the file; here is what it leaves out or takes for granted: that every tensor of the file is used and
every weight of the model is in it, the rotary frequencies that the file states, all tokens that end an answer, and how
text is split before the byte pairs. Whatever cannot be followed is refused. Nothing in a file is executed: a chat
template is text, rendered later by transformers' sandbox.

Weights are saved in float32. A block-quantized weight is a product of a half-precision scale and a small integer, which
bfloat16 would round once more: the folder holds the file's values to the bit, and loads in any dtype.

Needs the extra `cokv[gguf]`. Does not know where folders are kept: see store.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cokv.model import store
from cokv.model.gguf_header import Header, check_magic
from cokv.model.gguf_rotary import FREQUENCIES, follow_rotary
from cokv.model.shape import model_shape
from cokv.types import CokvError

UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, ImportError, RuntimeError)
# tokenizer.ggml.pre by rule, as in llama.cpp's src/llama-vocab.cpp: every digit alone, then as GPT-2; and as GPT-2.
DIGIT_BY_DIGIT = set(["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone"])
LLAMA3 = set(["llama3", "llama-v3", "llama-bpe"])  # begin with a token unless told; whole words before merges
AS_GPT2 = set(["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion"])


def folder_of(file: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """The folder that this file is converted into, once per content. Raises CokvError, which names the file."""
    check_magic(file)
    sha256 = store.sha256_of(file)
    folder = store.converted_folder(sha256)
    if folder.is_dir():
        return folder
    require_extra(str(file))
    with store.new_folder(folder) as part:
        if part is not None:
            say(f"converting {file.name}, once, into {folder}")
            for note in convert(file, part, sha256).notes:
                say(f"{file.name}: {note}")
    return folder


def require_extra(what: str) -> None:
    """Raises CokvError where the extra is not installed."""
    lacking = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if lacking:
        raise CokvError(
            f"{what}: reading a GGUF file needs {' and '.join(lacking)}; install the extra: pip install 'cokv[gguf]'"
        )


def convert(file: Path, out: Path, sha256: str) -> store.Conversion:
    """Writes the model of a GGUF file into the folder `out`, and the record of it. Raises CokvError.

    Holds the weights in memory once, in float32.
    """
    check_magic(file)
    header = Header(file)
    reader = f"transformers {metadata.version('transformers')}"
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        config = _config(file, where, header)
        header.require_tokenizer()
        read: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, config=config, dtype=torch.float32, output_loading_info=True, **where
        )
        loaded, report = read
        _require_all(loaded, report, header, reader)
        tokenizer, notes = _tokenizer(file, where, header)
        model = _plain(loaded, header)
    except CokvError as error:
        raise CokvError(f"{file}: this {header.architecture} model cannot be used: {error}") from None
    except UNREADABLE as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise CokvError(
            f"{file}: {reader} cannot read this {header.architecture} model ({reason}); "
            "expected a decoder that it knows"
        ) from None
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    for written in out.iterdir():
        written.chmod(0o644)
    versions = {name: metadata.version(name) for name in ("transformers", "gguf", "tokenizers")}
    conversion = store.Conversion(file.name, sha256, store.content_digest(out), versions, notes=tuple(notes))
    store.write_conversion(out, conversion)
    return conversion


def _config(file: Path, where: dict[str, Any], header: Header) -> Any:
    """As transformers reads it, and what it leaves at a default although the file says it."""
    config = AutoConfig.from_pretrained(file.parent, **where)
    head_dim = header.number("attention.key_length")
    if head_dim is not None and getattr(config, "head_dim", head_dim) != head_dim:
        config.head_dim = int(head_dim)
    follow_rotary(header, config)
    model_shape(config)
    return config


def _plain(loaded: Any, header: Header) -> Any:
    """The model without the marks of its file, which would not be saved; on the same memory."""
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(loaded.state_dict(), strict=True, assign=True)
    model.tie_weights()
    ends = header.end_ids()
    model.generation_config.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    return model


def _require_all(model: Any, report: Mapping[str, Any], header: Header, reader: str) -> None:
    """Every weight of the model is in the file, and every tensor of the file in the model."""
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        raise CokvError(f"the file lacks {len(lacking)} tensors, {lacking[0]} among them; download it again")
    if report["mismatched_keys"]:
        raise CokvError(f"{sorted(report['mismatched_keys'])[0][0]} has another shape than its config says")
    taken = sum(parameter.numel() for parameter in dict.fromkeys(model.parameters()))
    sizes = {name: int(tensor.n_elements) for name, tensor in header.tensors.items() if name != FREQUENCIES}
    if model.config.tie_word_embeddings:
        sizes.pop("output.weight", None)  # a copy of the embedding
    if sum(sizes.values()) != taken:
        odd = [name for name in sizes if name.endswith(".bias") or "rope" in name] or list(sizes)
        raise CokvError(
            f"its tensors hold {sum(sizes.values())} values and the model takes {taken}: {reader} leaves some out, "
            f"such as {odd[0]}"
        )


def _tokenizer(file: Path, where: dict[str, Any], header: Header) -> tuple[Any, list[str]]:
    """The file's tokenizer, and what of it could not be followed."""
    from tokenizers import pre_tokenizers

    rule, notes = header.text("tokenizer.ggml.pre"), []
    begins = {"add_bos_token": True} if rule in LLAMA3 else {}  # what the file says goes before this
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **where, **begins)
    tokens, rows = len(header.fields["tokenizer.ggml.tokens"].data), int(header.tensors["token_embd.weight"].shape[-1])
    if tokens > rows:
        raise CokvError(f"its tokenizer has {tokens} tokens, the embedding {rows} rows")
    if header.text("tokenizer.ggml.model") == "gpt2":
        backend = tokenizer.backend_tokenizer
        if rule in LLAMA3 or rule == "tekken":
            backend.model.ignore_merges = True
        if rule in DIGIT_BY_DIGIT:
            as_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), as_gpt2])
        elif rule not in AS_GPT2 and "Split" not in str(backend.pre_tokenizer):  # a rule unknown to transformers
            notes.append(f"text is split as by GPT-2: transformers does not know tokenizer.ggml.pre {rule!r}")
    return tokenizer, notes
