"""Text files as people have them: UTF-8 with or without a byte order mark, or UTF-16 with one, as Windows saves it."""

from __future__ import annotations

import codecs
from pathlib import Path

from suite.errors import SuiteError

UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path) -> str:
    """A text file's content without its byte order mark, line ends as "\\n".

    Raises SuiteError for any other encoding, which could only be guessed, and the OSError of a file that cannot be
    read.
    """
    with path.open("rb") as file:
        is_utf_16 = file.read(2) in UTF_16_MARKS
    try:
        return path.read_text(encoding="utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeError as error:
        at = f"byte {error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
        encoding = "UTF-16" if is_utf_16 else "UTF-8"
        raise SuiteError(
            f"{path} is not {encoding} text ({at}); save it as UTF-8, for example by "
            f"`iconv -f CP1252 -t UTF-8` if it comes from an old Windows program"
        ) from None
