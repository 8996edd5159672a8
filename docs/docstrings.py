"""What griffe calls on a package before its docstrings become the Python reference (`extensions` in mkdocs.yml).

A paragraph `name: what it is. other: ...`, and lines `name    what it is`, become lists, which Markdown would run
together.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

NAME = r"\w+(?:, \w+)*(?: and \w+)?"
ROW = re.compile(rf"^({NAME})\s{{2,}}(\S.*)$")
ITEMS = re.compile(rf"(?:^|(?<=[.;)])\s+)({NAME}): ")


class ListedNames(griffe.Extension):
    """Docstrings with their lists of names as Markdown lists."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        waiting: list[griffe.Object | griffe.Alias] = [pkg]
        while waiting:
            item = waiting.pop()
            if not isinstance(item, griffe.Object):
                continue  # a name of another module's
            waiting += item.members.values()
            if item.docstring is not None:
                item.docstring.value = "\n\n".join(map(listed, item.docstring.value.split("\n\n")))


def listed(paragraph: str) -> str:
    """A paragraph, as a list where it is one."""
    rows = [ROW.match(line) for line in paragraph.splitlines()]
    if all(rows):
        return "\n".join(f"* `{row[1]}`: {row[2]}" for row in rows if row)
    _, *items = ITEMS.split(" ".join(paragraph.split())) if ITEMS.match(paragraph) else ("",)
    return "\n".join(f"* `{name}`: {text}" for name, text in zip(items[::2], items[1::2], strict=True)) or paragraph
