"""The page without a browser: what it holds is the run's, and no text of a run becomes markup or code."""

import base64
import gzip
import hashlib
import html.parser
import json
import re
import tomllib
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import ReportError, aggregate, load_run
from reports.page import write, write_page
from reports.page.embed import code_text, compressed, json_text

VENDOR = Path(write.__file__).parent / "vendor"
HOSTILE = [
    "</script><script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    '"><svg onload="window.ran=1">',
    "<!--<script>",
    "javascript:window.ran=1",
    "{{ 7*7 }} ${window.ran=1} `'\"\\",
    "\u202eevil\u2066 \u0000\u0007\u001b[31m\u2028\u2029\ufeff",
    "\ud800 lone",
    "]]></style><style>body{display:none}</style>",
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_in_a_script_is_the_same_json_without_markup(value):
    text = json_text(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text.encode("utf-8")) == value


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_and_ends_no_element(text):
    assert json.loads(json_text([text])) == [text]
    assert "<" not in json_text(text) and json_text(text).encode("utf-8")
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", compressed([text]))
    assert json.loads(gzip.decompress(base64.b64decode(compressed([text])))) == [text]


def test_code_that_would_end_its_element_is_refused():
    for code in ("a</script>", "</STYLE >", "<!-- x"):
        with pytest.raises(AssertionError):
            code_text(code)
    assert code_text("x = 1\n//# sourceMappingURL=x.map\n") == "x = 1\n"


def test_vendored_files_are_those_that_were_published():
    listed = tomllib.loads((VENDOR / "vendor.toml").read_text())["file"]
    for file in listed:
        assert hashlib.sha256((VENDOR / file["name"]).read_bytes()).hexdigest() == file["sha256"], file["name"]
        assert file["license"] in ("MIT", "BSD-3-Clause") and (VENDOR / file["license_file"]).stat().st_size > 500
        assert re.fullmatch(r"\d+\.\d+\.\d+", file["version"])
    names = {file[key] for file in listed for key in ("name", "license_file")}
    assert {path.name for path in VENDOR.iterdir()} == names | {"vendor.toml"}


class Elements(html.parser.HTMLParser):
    """Start tags with their attributes, and the text of each script and style."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, dict[str, str | None], str]] = []
        self.inside = ""
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, text):
        if self.inside:
            self.texts.append((*self.tags[-1], text))

    def json(self, name: str):
        return json.loads(next(text for _, attributes, text in self.texts if attributes.get("id") == name))

    def chunk(self, number: int):
        return json.loads(gzip.decompress(base64.b64decode(self.json(f"chunk-{number}"))))


@pytest.fixture(scope="module")
def page(whole_run, tmp_path_factory) -> Elements:
    return Elements(write_page(load_run(whole_run), tmp_path_factory.mktemp("page")))


def test_the_policy_allows_the_pages_own_code_and_nothing_else(page):
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules.pop("default-src") == rules.pop("base-uri") == rules.pop("form-action") == "'none'"
    assert rules.pop("img-src") == "data:"
    for tag in ("script", "style"):
        texts = [t for name, a, t in page.texts if name == tag and a.get("type") != "application/json"]
        hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts]
        assert texts and rules.pop(f"{tag}-src").split() == hashes
    assert not rules


def test_nothing_points_elsewhere(page):
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on") or name in ("src", "action", "style")}, tag
        assert attributes.get("href", "#").startswith("#")


def test_scores_and_answers_are_those_of_the_records(page, whole_run):
    run = load_run(whole_run)
    index = page.json("data")["samples"]
    cells = [(cell["method"], cell["budget"]) for cell in index["cells"]]
    places = {name: at for at, name in enumerate(index["id"])}
    titles = run.labels.titles
    chunks: dict[int, list] = {}
    for record in run.records:
        at = places[record["sample_id"]]
        budget = "full" if record["kv_budget"] is None else str(record["kv_budget"])
        cell = cells.index((titles[record["method"]], budget))
        assert index["scores"][cell][at] == record["score"]
        number, place = index["chunk"][at]
        chunks.setdefault(number, page.chunk(number))
        sample = chunks[number][place]
        answer = next(answer for answer in sample["answers"] if answer[0] == cell)
        assert answer[1:3] == [record["prediction"], record["infeasible"]]
        assert sample["references"] == record["references"]
    assert len(index["id"]) == len({(r["task"], r["sample_id"]) for r in run.records})


def test_tables_hold_the_metrics(page, whole_run):
    metrics, tables = load_run(whole_run).metrics, page.json("data")["tables"]
    assert len(tables["scores"]["rows"]) == len(metrics["cells"])
    assert sorted(row["mean"] for row in tables["scores"]["rows"] if row["mean"] is not None) == sorted(
        cell["mean"] for cell in metrics["cells"] if "mean" in cell
    )
    shown = [row for name in ("differences", "differences_all_tasks") for row in metrics[name] if "mean" in row]
    assert len(tables["differences"]["rows"]) == len(shown)
    assert len(tables["memory"]["rows"]) == len(metrics["memory"])
    assert len(tables["latency"]["rows"]) == 4


def test_a_run_without_prompts_says_so(page):
    data = page.json("data")
    assert data["samples"]["prompts"] == 0 and not any(data["samples"]["shown"])
    assert "prompt" not in page.chunk(0)[0]


def spoiled(records, text):
    """Every text of every record replaced; samples stay apart."""
    names = ("benchmark", "task", "method", "preset", "prediction")
    return [
        {**record, **dict.fromkeys(names, text), "sample_id": f"{text}{number}", "references": [text], "notes": [text]}
        for number, record in enumerate(records)
    ]


def make_run(folder: Path, records: list, name: str = "plain", **files) -> Path:
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps({"name": name, "about": {"titles": {"m": name}, "description": name}}))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "metrics.json").write_text(json.dumps(aggregate(records)))
    (folder / "done.json").write_text("{}")
    for file, lines in files.items():
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_changes_no_element_of_the_page(record, tmp_path, text):
    records = [record(sample=number) for number in range(3)]
    plain = Elements(write_page(load_run(make_run(tmp_path / "a", spoiled(records, "plain"))), tmp_path))
    spoilt = Elements(write_page(load_run(make_run(tmp_path / "b", spoiled(records, text), text)), tmp_path))

    def structure(page):  # the policy's hashes are of code, and equal as well
        return [(tag, {**attributes, "id": attributes.get("id")}) for tag, attributes in page.tags]

    assert structure(plain) == structure(spoilt)
    assert [t for _, a, t in plain.texts if "type" not in a] == [t for _, a, t in spoilt.texts if "type" not in a]


def kept_line(record, cells, masks: np.ndarray) -> dict:
    """A line of kept_tokens.jsonl. masks: bool [cells, num_layers, num_kv_heads, seq_len]."""
    rows = np.packbits(masks.reshape(-1, masks.shape[-1]), axis=1, bitorder="little")
    which = np.arange(len(rows), dtype="<u4")
    return {
        **{key: record[key] for key in ("benchmark", "task", "seed", "sample_id")},
        "tokens": [f"t{at} " for at in range(masks.shape[-1])],
        "cells": cells,
        "seq_len": masks.shape[3],
        "num_layers": masks.shape[1],
        "num_kv_heads": masks.shape[2],
        "patterns": base64.b64encode(zlib.compress(rows.tobytes())).decode(),
        "which": base64.b64encode(zlib.compress(which.tobytes())).decode(),
    }


def test_prompts_and_kept_tokens_reach_their_samples(record, tmp_path):
    records = [record(sample=n, cell="aa") for n in range(2)] + [record("cokv", sample=n, cell="bb") for n in range(2)]
    cells = [{"method": "snapkv", "preset": "normalized", "kv_budget": 64, "cell": name} for name in ("aa", "old")]
    line = kept_line(records[0], cells, np.random.default_rng(0).random((2, 3, 2, 11)) < 0.5)
    prompt = {key: line[key] for key in ("benchmark", "task", "seed", "sample_id")} | {"text": "the prompt"}
    folder = make_run(tmp_path / "run", records, prompts=[prompt], kept_tokens=[line])
    with (folder / "prompts.jsonl").open("a") as file:
        file.write('{"benchmark": "torn')
    page = Elements(write_page(load_run(folder), tmp_path))
    index, chunk = page.json("data")["samples"], page.chunk(0)
    assert index["shown"] == [1, 0] and index["prompts"] == 1
    assert chunk[0]["prompt"] == "the prompt" and "prompt" not in chunk[1]
    (kept,) = chunk[0]["kept"]
    cell, gone = kept["cells"]
    assert index["cells"][cell]["method"] == "snapkv"
    assert gone is None, "a cell that the run no longer asks for is not shown"
    assert chunk[0]["tokens"] == line["tokens"] and kept["patterns"] == line["patterns"]


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("prompts", "{"),
        ("prompts", '{"benchmark": "ruler"}'),
        ("prompts", '{"benchmark": "r", "task": "t", "seed": 0, "sample_id": "x", "text": 3}'),
        ("kept_tokens", '{"benchmark": "r", "task": "t", "seed": 0, "sample_id": "x"}'),
        ("kept_tokens", "[" * 100_000),
    ],
)
def test_a_damaged_file_is_named_with_its_line(run_dir, tmp_path, file, line):
    (run_dir / f"{file}.jsonl").write_text(line + "\n")
    with pytest.raises(ReportError, match=rf"{file}\.jsonl line 1: .*; delete it"):
        write_page(load_run(run_dir), tmp_path)


def test_large_samples_stand_beside_the_page(run_dir, tmp_path, monkeypatch):
    inside = Elements(write_page(load_run(run_dir), tmp_path))
    monkeypatch.setattr(write, "INSIDE", 100)
    folder = tmp_path / "report_b"
    (folder / write.BESIDE).mkdir(parents=True)
    (folder / write.BESIDE / "9999.js").write_text("of an earlier page")
    beside = Elements(write_page(load_run(run_dir), folder))
    assert inside.json("data")["beside"] is None and beside.json("data")["beside"] == write.BESIDE
    files = sorted((folder / write.BESIDE).iterdir())
    assert files and "9999.js" not in {file.name for file in files}
    for number, file in enumerate(files):
        packed = re.fullmatch(r'"use strict";cokvChunk\((\d+),"([A-Za-z0-9+/=]+)"\);\n', file.read_text())
        assert packed and int(packed[1]) == number == int(file.stem)
        assert json.loads(gzip.decompress(base64.b64decode(packed[2]))) == inside.chunk(number)
    assert not any(attributes.get("id", "").startswith("chunk-") for _, attributes in beside.tags)


def test_the_same_run_gives_the_same_page(run_dir, tmp_path):
    pages = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        pages.append(write_page(load_run(run_dir), tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_the_page_is_part_of_the_report(whole_report):
    assert (whole_report / write.PAGE).stat().st_size > 1_000_000
