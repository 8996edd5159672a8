"""What mkdocs calls while it builds the site (`hooks` in mkdocs.yml).

The site has the repository's own paths. A page under docs/ is docs/NAME.md there too, README.md is the first page, and
every file that a page links to joins the site where it lies, so that one relative link is right in both places.
The command reference is written from the command line itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
COMMANDS = "docs/commands.md"
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """The pages of docs/ under the paths of the repository, with all that they link to."""
    site = Files([file for file in files if not file.src_uri.endswith(".md")])
    waiting = [*PAGES, *(f"docs/{file.src_uri}" for file in files if file.src_uri.endswith(".md"))]
    seen = {COMMANDS, *waiting}
    site.append(File.generated(config, COMMANDS, content=command_reference()))
    while waiting:
        path = waiting.pop()
        site.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
        new = [target for target in linked(path) if target not in seen]
        waiting += new
        seen.update(new)
    return site


def linked(path: str) -> list[str]:
    """Files of the repository that a page links to. One that is missing is left to mkdocs, which refuses the link."""
    if not path.endswith(".md"):
        return []
    text = FENCE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    targets = [((ROOT / path).parent / link).resolve() for link in LINK.findall(text) if "://" not in link]
    return [file.relative_to(ROOT).as_posix() for file in targets if file.is_file() and file.is_relative_to(ROOT)]


def command_reference() -> str:
    """Every command with its options, by typer's own writer."""
    command = [
        sys.executable,
        "-m",
        "typer",
        "suite.cli.main",
        "utils",
        "docs",
        "--name",
        "cokv",
        "--title",
        "Commands",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(f"the command reference cannot be written: {done.stderr.strip()}")
    return done.stdout
