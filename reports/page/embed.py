"""Data and code inside an HTML page, so that neither a browser nor a reader mistakes one for the other.

JSON stands in `<script type="application/json">`, where no character may end or open a tag; code is allowed by its hash
alone, so that nothing that the data hold can run.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def json_text(value: Any) -> str:
    """JSON that is safe inside a script element, and the same JSON to every parser.

    A lone surrogate, which JSON can hold and UTF-8 cannot, stays an escape.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def compressed(value: Any) -> str:
    """base64 of gzip of JSON: no character of it means anything to HTML or JavaScript."""
    return base64.b64encode(gzip.compress(json_text(value).encode(), 6, mtime=0)).decode("ascii")


def code_text(text: str) -> str:
    """Code to stand in a script or style element: no reference to a source map, which a browser would look for."""
    text = re.sub(r"^(//|/\*)# sourceMappingURL=.*$", "", text, flags=re.MULTILINE).strip() + "\n"
    assert not re.search(r"</(script|style)|<!--", text, re.IGNORECASE), "code that ends its own element"
    return text


def source_hash(text: str) -> str:
    """Of a whole element's content, as a Content-Security-Policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def policy(scripts: Iterable[str], styles: Iterable[str], files_beside: bool) -> str:
    """A Content-Security-Policy under which nothing can be fetched, sent or framed.

    files_beside: scripts of the page's own folder may be read as well.
    """
    allowed = [source_hash(text) for text in scripts] + ["'self'", "file:"] * files_beside
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(allowed)}",
            f"style-src {' '.join(source_hash(text) for text in styles)}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
