"""The commands and code that README.md, CONTRIBUTING.md and docs/ show, as text.

A line of commands is read as people write usage: `[...]` may be left out, `a | b` is one of the two, what follows ` # `
is a comment, an indented line goes on with the one above, and words in capitals stand for a file, a folder or a number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = ("cokv", "tox", "python", "pip", "bash")
FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
OPTIONAL = re.compile(r"\[([^\[\]]*)\](?!\S)")
ALTERNATIVES = re.compile(r"(\S+)((?: \| \S+)+)")


@dataclass(frozen=True)
class Block:
    """A fenced block: the page it stands on, its language ("" where none is named) and its text."""

    page: str
    language: str
    text: str


def pages() -> list[Path]:
    """The pages that a user reads, README.md first."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in these languages; of every language when none is named."""
    found = [
        Block(page.relative_to(ROOT).as_posix(), language, text)
        for page in pages()
        for language, text in FENCE.findall(page.read_text(encoding="utf-8"))
    ]
    return [block for block in found if not languages or block.language in languages]


def commands_of(text: str) -> list[str]:
    """The commands of a block, with their optional parts, each on one line. Empty for a block that is no commands."""
    prompted = any(line.startswith("$ ") for line in text.splitlines())
    lines: list[str] = []
    for raw in text.splitlines():
        if prompted and not raw.startswith("$ "):
            continue  # what a command printed
        line = re.sub(r"(^|\s)#\s.*$", "", raw.removeprefix("$ ")).rstrip()
        if line.startswith(" ") and lines:
            lines[-1] += f" {line.strip()}"
        elif line:
            lines.append(line.removesuffix("\\").rstrip())
    several = rf"\s{{2,}}(?=(?:{'|'.join(PROGRAMS)})\s)|\s+&&\s+"
    commands = [" ".join(part.split()) for line in lines for part in re.split(several, line)]
    return commands if all(command.split()[0] in PROGRAMS for command in commands) else []


def documented_commands() -> list[str]:
    """Every command of a fenced block, once."""
    found = [command for block in blocks("", "console", "sh", "bash") for command in commands_of(block.text)]
    return list(dict.fromkeys(found))


def inline_commands() -> list[str]:
    """Every `command` inside a sentence, once. It may be only a command's name, or end in `...`."""
    texts = [FENCE.sub("", page.read_text(encoding="utf-8")) for page in pages()]
    spans = [" ".join(span.split()) for text in texts for span in INLINE.findall(text)]
    return list(dict.fromkeys(span for span in spans if span.split()[0] in PROGRAMS and " " in span))


def forms(command: str, left_out: tuple[str, ...] = ()) -> list[str]:
    """What a line of usage lets one type: for each alternative outside brackets, the command without its optional
    parts and with all of them, but those (or those alternatives) that contain a text of `left_out`.
    """
    outside = ALTERNATIVES.search(OPTIONAL.sub("", command))
    if outside:
        choices = outside[0].split(" | ")
        return [form for choice in choices for form in forms(command.replace(outside[0], choice), left_out)]
    parts = OPTIONAL.findall(command)
    bare = " ".join(OPTIONAL.sub("", command).split())
    kept = [[a for a in part.split(" | ") if not any(text in a for text in left_out)] for part in parts]
    chosen = iter([alternatives[0] if alternatives else "" for alternatives in kept])
    full = " ".join(OPTIONAL.sub(lambda _: next(chosen), command).split())
    return list(dict.fromkeys([bare, full]))


def every_form(command: str) -> list[str]:
    """All forms, with each alternative inside brackets in one of them."""
    most = max((part.count(" | ") + 1 for part in OPTIONAL.findall(command)), default=1)

    def alternative(index: int) -> str:
        def pick(part: re.Match[str]) -> str:
            options = part[1].split(" | ")
            return f"[{options[min(index, len(options) - 1)]}]"

        return OPTIONAL.sub(pick, command)

    return list(dict.fromkeys(form for index in range(most) for form in forms(alternative(index))))
