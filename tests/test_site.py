"""The site builds without a warning, needs no other machine, and has every command and every public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from documented import ROOT
from mkdocs.utils.yaml import get_yaml_loader

import cokv
import longbench
import reports
import ruler
from suite.cli.main import app

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "video": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Loads(HTMLParser):
    """What a page loads when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") not in ("stylesheet", "icon", "preload", "prefetch", "preconnect"):
            return
        self.urls.append(values.get(LOADED.get(tag, "")) or "")


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        parser = Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        assert not [url for url in parser.urls if "//" in url], page.name


def test_no_style_fetches_from_elsewhere(site: Path) -> None:
    elsewhere = re.compile(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*")
    for style in site.rglob("*.css"):
        assert not elsewhere.findall(style.read_text(encoding="utf-8")), style.name


def test_every_command_is_in_the_reference(site: Path) -> None:
    text = (site / "docs" / "commands.html").read_text(encoding="utf-8")

    def names(command: Any, path: str) -> list[str]:
        inner = getattr(command, "commands", {})
        return [path, *(name for key, value in inner.items() for name in names(value, f"{path} {key}"))]

    _, *shown = names(typer.main.get_command(app), "cokv")
    assert len(shown) > 15
    assert [name for name in shown if f">{name}</code>" not in text and f"{name} [" not in text] == []


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    text = (site / "docs" / "api.html").read_text(encoding="utf-8")
    names = [name for package in (cokv, longbench, reports, ruler) for name in package.__all__]
    missing = [name for name in names if f".{name}&#34;" not in text and f'.{name}"' not in text]
    assert missing == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=get_yaml_loader())["nav"]
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if f"docs/{page.name}" not in str(navigation)]


def test_no_page_shows_where_it_was_built(site: Path) -> None:
    assert not [page for page in site.rglob("*.html") if str(ROOT) in page.read_text(encoding="utf-8")]
