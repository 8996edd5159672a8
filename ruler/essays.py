"""Real text for the essay haystacks: a folder of the user's .txt files, or a text that ships with this package.

RULER's own essays are not shipped. Its script (NVIDIA/RULER, `scripts/data/synthetic/json`) joins Paul Graham's essays
to one text: the 49 .txt files of LLMTest_NeedleInAHaystack in file-name order, then some 170 pages of his site. A
folder of those 49 files gives the beginning of that text, about 150,000 tokens, and a shorter haystack reads no more.
Differs: files are joined by a space, where the script puts nothing between them.

Knows nothing of tasks or lengths.
"""

import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ruler.errors import RulerError


@dataclass(frozen=True)
class BundledText:
    """A text in the public domain that ships with this package; `text/README.md` says where it comes from."""

    file: str
    title: str

    @property
    def path(self) -> Path:
        return Path(str(files("ruler") / "text" / self.file))

    @property
    def note(self) -> str:
        """What a record says of a haystack made of this text."""
        return f"haystack: {self.title} (public domain), not RULER's essays"


BUNDLED = {"alice": BundledText("alice.txt", "Alice's Adventures in Wonderland, Lewis Carroll")}


@dataclass(frozen=True)
class Essays:
    """Sentences in the order they are read, and what a record says of their source (None: the user's own essays)."""

    sentences: tuple[str, ...]
    note: str | None = None


def essay_files(source: Path | str) -> list[Path]:
    """The files of a source in file-name order. A string that is a bundled text's name means that text (`./alice` is a
    folder); anything else is a folder's path.
    """
    if isinstance(source, str) and source in BUNDLED:
        return [BUNDLED[source].path]
    folder = Path(source)
    texts = sorted(f for f in folder.glob("*.txt") if f.is_file()) if folder.is_dir() else []
    if not texts:
        raise RulerError(
            f"no .txt file in the essay folder {folder}; put plain-text essays there, name a bundled text "
            f"({', '.join(BUNDLED)}), or leave `essays` unset"
        )
    return texts


def read_essays(source: Path | str) -> Essays:
    """All sentences of a source's files, see `essay_files`."""
    sentences: list[str] = []
    for file in essay_files(source):
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise RulerError(
                f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
            ) from None
        except OSError as error:
            raise RulerError(f"cannot read the essay {file} ({error.strerror}); check its permissions") from None
        sentences += [s for s in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if s]
    if not sentences:
        raise RulerError(f"the essay folder {source} has only empty files; put plain-text essays there")
    bundled = BUNDLED.get(source) if isinstance(source, str) else None
    return Essays(tuple(sentences), bundled.note if bundled else None)
