"""How many bytes a model's weights will take, before it is loaded."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from importlib.resources import files
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from cokv.model.known import KNOWN
from cokv.types import CokvError

EMBEDDED = "embedded"
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def weights_bytes(name: str, revision: str | None, dtype: str) -> int | None:
    """Bytes of a model's weights in a dtype, by the names of `load_model`.

    None where that is not known yet: a hub model that is not on this machine, or a file that loading will refuse.
    """
    with suppress(OSError, SafetensorError, CokvError):
        parameters = _parameters(name, revision)
        return None if parameters is None else parameters * BYTES[dtype]
    return None


def _parameters(name: str, revision: str | None) -> int | None:
    path = Path(name).expanduser()
    if name == EMBEDDED:
        return _in_folder(Path(str(files("cokv.embedded") / "weights")))
    if name in KNOWN:
        return KNOWN[name].parameters
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _in_gguf(path)
    return None if revision is None else _in_hub_cache(name, revision)


def _in_folder(folder: Path) -> int | None:
    count = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as tensors:
            names = tensors.keys()  # not iterable itself
            count += sum(prod(tensors.get_slice(name).get_shape()) for name in names)
    return count or None


def _in_gguf(file: Path) -> int | None:
    from cokv.model.gguf_header import Header, check_magic

    check_magic(file)
    if importlib.util.find_spec("gguf") is None:
        return None
    return sum(int(tensor.n_elements) for tensor in Header(file).tensors.values())


def _in_hub_cache(name: str, revision: str) -> int | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return _in_folder(Path(snapshot_download(name, revision=revision, local_files_only=True)))
    except (HFValidationError, LocalEntryNotFoundError):
        return None
