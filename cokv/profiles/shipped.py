"""The profiles that ship with this package: a folder per model, the embedded one and known ones.

A profile's name is MODEL/STEM, such as `embedded/cokv`; MODEL alone stands for all of its model's profiles, of which a
method takes its own. A model is recognized by its name, or by the digest that its profiles were made on.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from cokv.methods.method import Method
from cokv.types import CokvError

PACKAGE = Path(__file__).parents[1]
EMBEDDED = PACKAGE / "embedded" / "profiles"
KNOWN = PACKAGE / "known_profiles"  # a folder per known model
SUFFIX = ".safetensors"
REASON = ".json"  # in place of a profile that its model cannot have
SHAPLEY = "sliced Shapley value"  # the kind of profile that the head game computes
SHAPLEY_STEM = "cokv"
OF_PARAMETERS = {"duoattention", "lukv"}  # methods whose profile depends on their parameters


def profile_name(method: Method) -> str:
    """Profiles that depend on a method's parameters are per variant, others serve all variants."""
    variant = re.sub(r"[^A-Za-z0-9_.=-]+", "-", method.variant)
    return f"{method.name}-{variant}" if method.name in OF_PARAMETERS else method.name


def shipped_folders() -> dict[str, Path]:
    """By model, the folder of its profiles."""
    known = sorted(KNOWN.iterdir()) if KNOWN.is_dir() else []
    folders = {"embedded": EMBEDDED, **{folder.name: folder for folder in known if folder.is_dir()}}
    return {model: folder for model, folder in folders.items() if any(folder.glob(f"*{SUFFIX}"))}


def shipped_profiles(model: str | None = None) -> tuple[str, ...]:
    """Names of all shipped profiles, or of one model's."""
    folders = shipped_folders()
    models = list(folders) if model is None else [model] if model in folders else []
    return tuple(f"{name}/{file.stem}" for name in models for file in sorted(folders[name].glob(f"*{SUFFIX}")))


def shipped_for(model: str, method: Method) -> str:
    """The name of the profile that a method takes of those that ship with a model. Raises CokvError.

    A name may be that of a reason: why this model has no such profile.
    """
    folder = shipped_folders().get(model)
    if folder is None:
        raise CokvError(f"no profiles ship with model {model!r}; they do with {', '.join(shipped_folders())}")
    stems = [profile_name(method), *([SHAPLEY_STEM] if SHAPLEY in method.profile_kinds else [])]
    for stem in stems:
        if (folder / f"{stem}{SUFFIX}").is_file() or (folder / f"{stem}{REASON}").is_file():
            return f"{model}/{stem}"
    listed = ", ".join(shipped_profiles(model))
    raise CokvError(f"no profile {stems[0]!r} for {method.name} ships with model {model!r}; it has {listed}")


def shipped_path(name: str) -> Path | None:
    """The file behind a shipped profile's name; None for what is no such name. Raises CokvError for an unknown one."""
    model, slash, stem = name.partition("/")
    folder = shipped_folders().get(model)
    if folder is None or "/" in stem or Path(name).suffix in (SUFFIX, REASON, ".npy", ".tsv"):
        return None
    if not slash:
        if Path(name).exists():
            return None
        raise CokvError(
            f"{name!r} names all profiles of a model; name one of them: {', '.join(shipped_profiles(model))}"
        )
    for suffix in (SUFFIX, REASON):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    listed = ", ".join(shipped_profiles(model))
    raise CokvError(f"no shipped profile {name!r}, expected one of {listed}, or a file")


def model_of_digest(digest: str) -> str | None:
    """The model whose shipped profiles were made on weights of this digest."""
    for model, folder in shipped_folders().items():
        if any(_digest(file) == digest for file in sorted(folder.glob(f"*{SUFFIX}"))):
            return model
    return None


def _digest(file: Path) -> str | None:
    """What a profile says of the weights it was made on."""
    try:
        with safe_open(file, framework="np") as tensors:
            model = json.loads((tensors.metadata() or {})["provenance"]).get("model")
    except (SafetensorError, OSError, KeyError, ValueError, AttributeError):
        return None
    return model.get("digest") if isinstance(model, dict) else None
