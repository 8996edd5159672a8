"""Text of records made safe to show: what a reader cannot see, or a terminal would obey, is written out as `<U+001B>`.

Records hold whatever a model, a data set or a plugin's title put there. Languages with markup of their own escape
after this: LaTeX and Markdown in reports/table.py.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

ELLIPSIS = "…"
_NOT_PLAIN = re.compile(r"[^ -~]+")


def visible(text: str, lines: bool = False) -> str:
    """`text` with every blank as a space and every character without a glyph (control, bidirectional, zero-width,
    private, unassigned, lone surrogates) as its code point in angle brackets. lines: line feeds stay.
    """
    if text.isprintable():  # space is the only blank that counts as printable
        return text
    return _NOT_PLAIN.sub(lambda run: "".join(_shown(character, lines) for character in run.group()), text)


def code_point(character: str) -> str:
    """`U+202E`: at least four hexadecimal digits."""
    return f"U+{ord(character):04X}"


def clip(text: str, length: int) -> str:
    """`text`, cut to `length` characters with an ellipsis as the last of them where it is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + ELLIPSIS


def file_stem(text: str) -> str:
    """A name as part of a file's name: itself where it is plain, else its plain characters and a digest of it."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)[:40]
    if plain == text:
        return text
    return f"{plain}_{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:6]}"


def _shown(character: str, lines: bool) -> str:
    if character == "\n" and lines:
        return character
    if character in "\t\n\r" or unicodedata.category(character) == "Zs":
        return " "
    return character if character.isprintable() else f"<{code_point(character)}>"
