"""The profile of each method: a file that the user names, ours or a published one, else one from a profile folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cokv.methods.method import Method
from cokv.model.loading import LoadedModel
from cokv.profiles.load import load_profile
from suite.errors import SuiteError
from suite.profiles.profile_folder import ProfileFolder, SourcedProfile

EVERY = ""  # key of a profile for all methods


def profiles_of(
    methods: Sequence[Method], loaded: LoadedModel, options: Sequence[str] = (), folder: ProfileFolder | None = None
) -> dict[str, SourcedProfile | str]:
    """By name of each method that needs a profile: the profile, or why it has none.

    options: texts METHOD=FILE, or FILE for every method that can use it and is not named. Others use the folder's.
    """
    needing = [method for method in methods if method.needs_profile]
    files, shape = _files(options, methods), (loaded.shape.num_layers, loaded.shape.num_kv_heads)
    from_files = {name: SourcedProfile(load_profile(path, shape), f"from {path}") for name, path in files.items()}
    for_all = from_files.get(EVERY)
    if for_all and not any(_fits(for_all, method) for method in needing):
        kind = for_all.profile.provenance["kind"]
        kinds = ", ".join(f"{method.name} ({method.profile})" for method in needing)
        raise SuiteError(f"--profile {files[EVERY]} is of kind {kind!r}, which none of these takes: {kinds}")
    profiles: dict[str, SourcedProfile | str] = {}
    for method in needing:
        profile = from_files.get(method.name) or (for_all if for_all and _fits(for_all, method) else None)
        missing = f"needs {method.profile}; give them with --profile FILE or --run RUN"
        if profile is None and folder is not None:
            stored = folder.of(method, loaded.digest)
            profile, missing = (stored, "") if isinstance(stored, SourcedProfile) else (None, stored)
        profiles[method.name] = profile or for_all or missing  # a method refuses a profile of another kind itself
    return profiles


def _files(options: Sequence[str], methods: Sequence[Method]) -> dict[str, str]:
    """File by method name. Raises SuiteError for a file that no method of that name needs."""
    needing = [method.name for method in methods if method.needs_profile]
    files: dict[str, str] = {}
    for option in options:
        name, equals, path = option.partition("=")
        if not equals or Path(option).exists():
            name, path = EVERY, option
        if not needing or (name != EVERY and name not in needing):
            compared = name in [method.name for method in methods]
            wrong = f"{name} {'needs none' if compared else 'is not compared'}" if name else "no method needs one"
            raise SuiteError(
                f"--profile {option}: {wrong}; methods compared that need a profile: {', '.join(needing) or 'none'}"
            )
        if name in files:
            raise SuiteError(f"--profile names two files for {name or 'all methods'}; expected one")
        files[name] = path
    return files


def _fits(sourced: SourcedProfile, method: Method) -> bool:
    """Whether the kind is one that the method takes. A profile without a kind fits every method."""
    kind = sourced.profile.provenance.get("kind")
    return not isinstance(kind, str) or kind.startswith(method.profile_kinds)
