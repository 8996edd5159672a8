"""A digest of a profile, for records of which one a method has used."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from hashlib import sha256
from typing import Any

import numpy as np


def profile_digest(profile: Any) -> str | None:
    """sha256 over the numbers of a profile, hexadecimal: where they came from does not count. None for no profile."""
    if profile is None:
        return None
    parts = (
        [getattr(profile, f.name) for f in fields(profile) if f.name != "provenance"]
        if is_dataclass(profile)
        else [profile]
    )
    digest = sha256(type(profile).__name__.encode())
    for part in parts:
        array = np.ascontiguousarray(part)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes() if array.dtype != object else repr(part).encode())
    return digest.hexdigest()
