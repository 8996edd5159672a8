"""Which profile each method gets: a file that the user names, ours or a published one, else one that is stored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cokv.methods.method import Method
from cokv.model.loading import LoadedModel
from cokv.profiles.load import load_profile
from suite.errors import SuiteError
from suite.profiles.profile_folder import ProfileFolder, SourcedProfile

EVERY = ""  # the name under which a profile for all methods stands


def profiles_of(
    methods: Sequence[Method], loaded: LoadedModel, given: Sequence[str] = (), stored: ProfileFolder | None = None
) -> dict[str, SourcedProfile | str]:
    """By method, of those that need one: its profile, or why it has none.

    given: texts METHOD=FILE, or FILE for every method that it is for and none is named for. Others get what is stored.
    """
    needing = [method for method in methods if method.needs_profile]
    files = _named(given, methods)
    shape = loaded.shape.num_layers, loaded.shape.num_kv_heads
    read = {name: SourcedProfile(load_profile(path, shape), f"from {path}") for name, path in files.items()}
    everyones = read.get(EVERY)
    if everyones and not any(_is_for(everyones, method) for method in needing):
        kind = everyones.profile.provenance["kind"]
        takers = ", ".join(f"{method.name} ({method.profile})" for method in needing)
        raise SuiteError(f"--profile {files[EVERY]} is of kind {kind!r}, which none of these takes: {takers}")
    found: dict[str, SourcedProfile | str] = {}
    for method in needing:
        own = read.get(method.name) or (everyones if everyones and _is_for(everyones, method) else None)
        there = stored.of(method, loaded.digest) if stored and own is None else None
        if isinstance(there, SourcedProfile):
            own = there
        missing = there or f"needs {method.profile}; give them with --profile FILE or --run RUN"
        found[method.name] = own or everyones or missing  # what a file for all is not for, its method refuses
    return found


def _named(given: Sequence[str], methods: Sequence[Method]) -> dict[str, str]:
    """File by method. A method that takes none of them is no place for one."""
    takers = [method.name for method in methods if method.needs_profile]
    found: dict[str, str] = {}
    for text in given:
        method, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            method, path = EVERY, text
        if not takers or (method != EVERY and method not in takers):
            compared = method in [one.name for one in methods]
            wrong = f"{method} {'needs none' if compared else 'is not compared'}" if method else "no method needs one"
            raise SuiteError(
                f"--profile {text}: {wrong}; methods compared that need a profile: {', '.join(takers) or 'none'}"
            )
        if method in found:
            raise SuiteError(f"--profile names two files for {method or 'all methods'}; expected one")
        found[method] = path
    return found


def _is_for(given: SourcedProfile, method: Method) -> bool:
    """A profile without a kind is taken at its word."""
    kind = given.profile.provenance.get("kind")
    return not isinstance(kind, str) or kind.startswith(method.profile_kinds)
