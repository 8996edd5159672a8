"""The page in a browser without a window: it draws, sorts, filters and opens samples, asks for nothing from elsewhere,
and runs nothing that a run's texts hold.
"""

import base64
import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from page_browser import browser, console, missing_programs, open_page, requests, wait

from reports import aggregate, load_run
from reports.page import write, write_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {', '.join(missing_programs())}"),
]
CODE = "window.ran = (window.ran || 0) + 1"
HOSTILE = (
    f"</script><script>{CODE}</script><img src=x onerror='{CODE}'><svg onload='{CODE}'>"
    f"<a href='javascript:{CODE}'>x</a><iframe srcdoc=\"<script>parent.ran=1</script>\"></iframe>"
    f"<style>*{{display:none}}</style>{{{{{CODE}}}}} ${{{CODE}}} \u202eevil\u2066\u0007\u001b[31m \ud800 'quoted\" `x`"
)
LAYERS, HEADS, TOKENS = 3, 2, 40
LENGTH = 10_000_000


@pytest.fixture(scope="module")
def driver():
    with browser() as opened:
        yield opened


@pytest.fixture
def fresh(driver):
    """The same browser, without what earlier pages have logged."""
    driver.get("about:blank")
    console(driver)
    requests(driver)
    return driver


def masks() -> np.ndarray:
    """bool [2 cells, LAYERS, HEADS, TOKENS]."""
    mask = np.random.default_rng(3).random((2, LAYERS, HEADS, TOKENS)) < 0.4
    mask[:, :, :, 0] = True  # kept by all heads
    mask[:, :, :, 1] = False  # and by none
    return mask


def in_two(line: dict) -> list[dict]:
    """As a run has them that grew by the second cell."""
    which = zlib.decompress(base64.b64decode(line["which"]))
    halves = [which[: len(which) // 2], which[len(which) // 2 :]]
    return [
        {**line, "cells": [cell], "which": base64.b64encode(zlib.compress(half)).decode()}
        for cell, half in zip(line["cells"], halves, strict=True)
    ]


def kept_line(record) -> dict:
    rows = np.packbits(masks().reshape(-1, TOKENS), axis=1, bitorder="little")
    which = np.arange(len(rows), dtype="<u4")
    return {
        **{key: record[key] for key in ("benchmark", "task", "seed", "sample_id")},
        "tokens": ["<b>bold</b>\n" if at == 5 else f" 419{at}" if at == 7 else f" token{at}" for at in range(TOKENS)],
        "cells": [
            {"method": method, "preset": "normalized", "kv_budget": 64, "cell": method} for method in ("snapkv", "cokv")
        ],
        **{"seq_len": TOKENS, "num_layers": LAYERS, "num_kv_heads": HEADS},
        "patterns": base64.b64encode(zlib.compress(rows.tobytes())).decode(),
        "which": base64.b64encode(zlib.compress(which.tobytes())).decode(),
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory, whole_run) -> Path:
    """The synthetic run with a prompt and kept tokens for its first sample."""
    run = load_run(whole_run)
    records = [{**record, "cell": record["method"]} for record in run.records]
    first = records[0]
    folder = tmp_path_factory.mktemp("page")
    line = kept_line(first)
    prompt = {key: line[key] for key in ("benchmark", "task", "seed", "sample_id")}
    (folder / "prompts.jsonl").write_text(json.dumps({**prompt, "text": "".join(line["tokens"])}) + "\n")
    (folder / "kept_tokens.jsonl").write_text("".join(json.dumps(one) + "\n" for one in in_two(line)))
    (folder / "report").mkdir()
    return write_page(type(run)(**{**vars(run), "path": folder, "records": records}), folder / "report")


def cells(driver, selector: str, field: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(cell => cell.textContent)"
    return driver.execute_script(script, f"{selector} .tabulator-row .tabulator-cell[tabulator-field='{field}']")


def numbers(texts: list[str]) -> list[float]:
    return [float(text.replace("−", "-").replace(",", "")) for text in texts if text != "—"]


def choose(driver, holder: str, label: str, text: str) -> None:
    """An option of the select with this label."""
    driver.execute_script(
        """const label = [...document.querySelectorAll(arguments[0] + " label")]
             .find(one => one.querySelector("span").textContent === arguments[1]);
           const control = label.querySelector("select");
           control.value = [...control.options].find(option => option.textContent === arguments[2]).value;
           control.dispatchEvent(new Event("change"));""",
        holder, label, text,
    )  # fmt: skip


def test_it_opens_from_disk_without_a_complaint_or_a_request(fresh, page):
    open_page(fresh, page)
    assert console(fresh) == []
    assert set(requests(fresh)) == {page.resolve().as_uri()}
    drawn = fresh.execute_script(
        "return [...document.querySelectorAll('.picture')].map(box => box.querySelectorAll('svg path').length)"
    )
    assert len(drawn) == 4 and all(count > 5 for count in drawn), "overview, curves, head scores, masking"
    titles = fresh.execute_script("return [...document.querySelectorAll('h2')].map(title => title.textContent)")
    assert titles == [
        "Overview",
        "Verdicts",
        "Scores",
        "Differences",
        "Memory",
        "Latency",
        "Heads",
        "Samples",
        "About the run",
    ]


def test_a_table_sorts_as_numbers_by_mouse_and_by_keyboard(fresh, page):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    open_page(fresh, page)
    button = fresh.find_element(By.CSS_SELECTOR, "#differences .tabulator-col[tabulator-field='mean'] button.sort")
    fresh.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    rising = numbers(cells(fresh, "#differences", "mean"))
    assert len(rising) > 10 and rising == sorted(rising) and rising[0] < -9
    button.send_keys(Keys.ENTER)
    falling = numbers(cells(fresh, "#differences", "mean"))
    assert falling == sorted(falling, reverse=True) and falling[0] > rising[0]
    assert (
        fresh.find_element(By.CSS_SELECTOR, "#differences .tabulator-col[tabulator-field='mean']").get_attribute(
            "aria-sort"
        )
        == "descending"
    )


def test_a_table_filters_by_choice_and_by_number(fresh, page):
    open_page(fresh, page)
    fresh.execute_script(
        """const control = document.querySelector("#scores .tabulator-col[tabulator-field='method'] select");
           control.value = "CoKV"; control.dispatchEvent(new Event("change"));
           const least = document.querySelector("#scores .tabulator-col[tabulator-field='mean'] input");
           least.value = "< 90"; least.dispatchEvent(new Event("input"));"""
    )
    wait(fresh, "return document.querySelectorAll('#scores .tabulator-row').length < 24")
    assert set(cells(fresh, "#scores", "method")) == {"CoKV"}
    means = numbers(cells(fresh, "#scores", "mean"))
    assert means and max(means) < 90


def test_samples_filter_by_task_method_and_score(fresh, page, whole_run):
    open_page(fresh, page)
    choose(fresh, "#samples", "Task", "vt")
    choose(fresh, "#samples", "Method", "SnapKV")
    choose(fresh, "#samples", "KV budget", "128")
    choose(fresh, "#samples", "Show", "scored below the full cache")
    full = {r["sample_id"]: r["score"] for r in load_run(whole_run).records if r["method"] == "full"}
    lost = {
        r["sample_id"]
        for r in load_run(whole_run).records
        if (r["task"], r["method"], r["kv_budget"]) == ("vt", "snapkv", 128) and r["score"] < full[r["sample_id"]]
    }
    assert lost
    wait(fresh, f"return document.querySelector('#samples .status').textContent.startsWith('{len(lost)} of ')")
    assert set(cells(fresh, "#samples .list", "id")) == lost


def test_a_sample_shows_its_answers_and_the_tokens_kept(fresh, page):
    open_page(fresh, page)
    fresh.execute_script("document.querySelector('#samples button.open').click()")
    wait(fresh, "return document.querySelectorAll('.tokens span').length > 0")
    wait(fresh, "return document.querySelectorAll('.detail .tabulator-row').length > 5")
    text = fresh.execute_script("return document.querySelector('.tokens').textContent")
    assert text.replace("↵", "") == "".join(
        kept_line({key: 0 for key in ("benchmark", "task", "seed", "sample_id")})["tokens"]
    )
    assert fresh.execute_script("return document.querySelectorAll('.tokens b').length") == 0
    assert (
        fresh.execute_script("return [...document.querySelectorAll('.tokens .reference')].map(s => s.textContent)")
        == []
    )

    def shares() -> list[float]:
        return fresh.execute_script(
            """return [...document.querySelectorAll(".tokens span")]
                 .map(span => Number(span.style.getPropertyValue("--share")))"""
        )

    def colour(at: int) -> str:
        return fresh.execute_script(
            f"return getComputedStyle(document.querySelectorAll('.tokens span')[{at}]).backgroundColor"
        )

    for place, method in enumerate(("SnapKV", "CoKV")):
        choose(fresh, ".kept", "Method", method)
        choose(fresh, ".kept", "Layer", "all layers")
        choose(fresh, ".kept", "KV head", "all heads")
        assert np.allclose(shares(), masks()[place].mean(axis=(0, 1)), atol=1e-3)
        assert colour(0) != colour(1) == "rgba(0, 0, 0, 0)"
        choose(fresh, ".kept", "Layer", "2")
        assert np.allclose(shares(), masks()[place, 2].mean(axis=0), atol=1e-3)
        choose(fresh, ".kept", "KV head", "1")
        assert shares() == masks()[place, 2, 1].astype(float).tolist()
    name = """[...document.querySelectorAll(".detail .tabulator-cell button.open")]
        .find(one => one.textContent === "SnapKV")"""
    assert fresh.execute_script(f"const name = {name}; name.click(); return !name.disabled")
    assert shares() == masks()[0, 2, 1].astype(float).tolist(), "a method's name in its answer draws what it kept"
    choose(fresh, ".kept", "Method", "CoKV")
    said = fresh.execute_script("return document.querySelector('.said').textContent")
    assert f"{masks()[1, 2, 1].sum()} of {TOKENS} tokens per head" in said
    painted = fresh.execute_script(
        """const map = document.querySelector("canvas.map");
           const data = map.getContext("2d").getImageData(0, 0, map.width, map.height).data;
           return data.filter((value, at) => at % 4 === 3 && value > 0).length / (data.length / 4)"""
    )
    assert painted == pytest.approx(masks()[1].mean(), abs=1e-6)
    fresh.execute_script("[...document.querySelectorAll('.detail details')].forEach(one => { one.open = true; })")
    assert wait(fresh, "return document.querySelector('pre.prompt')?.textContent").startswith(" token0 token1")
    assert console(fresh) == [] and set(requests(fresh)) == {page.resolve().as_uri()}


def test_a_picture_has_tooltips_of_text(fresh, page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    open_page(fresh, page)
    point = fresh.find_element(By.CSS_SELECTOR, "#overview .picture svg path[aria-roledescription='circle']")
    fresh.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(fresh).move_to_element(point).perform()
    text = wait(fresh, "const tip = document.getElementById('tip'); return !tip.hidden && tip.textContent")
    assert "Method" in text and "Interval[" in text


def test_light_and_dark_differ_and_print_shows_the_tables(fresh, page):
    from selenium.webdriver.common.by import By

    open_page(fresh, page)
    colours = []
    for _ in range(2):
        colours.append(fresh.execute_script("return getComputedStyle(document.body).backgroundColor"))
        fresh.find_element(By.ID, "theme").click()
    assert len(set(colours)) == 2
    pdf = base64.b64decode(fresh.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000


def test_every_name_stands_for_its_control(fresh, page):
    """What a screen reader says: no control without a name, one main title per section, tables with heads."""
    open_page(fresh, page)
    nameless = fresh.execute_script(
        """return [...document.querySelectorAll("button, select, input")].filter(one =>
             !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.[0]?.textContent.trim()))
             .map(one => one.outerHTML)"""
    )
    assert nameless == []
    assert fresh.execute_script("return document.documentElement.lang") == "en"
    assert fresh.execute_script(
        """return [...document.querySelectorAll("section")]
             .every(section => document.getElementById(section.getAttribute("aria-labelledby")))"""
    )
    assert fresh.execute_script(
        """return [...document.querySelectorAll(".picture svg")]
             .every(svg => (svg.getAttribute("aria-label") ?? svg.parentElement.getAttribute("aria-label"))?.trim())"""
    )


@pytest.fixture(scope="module")
def hostile(record, tmp_path_factory) -> Path:
    """Every text of the run is hostile, and one answer is long."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    folder.mkdir()
    texts = dict.fromkeys(("benchmark", "task", "preset"), HOSTILE)
    records = []
    for method in ("full", f"m {HOSTILE}", f"n {HOSTILE}"):
        for number in range(3):
            kv_budget = None if method == "full" else 64
            more = {"sample_id": f"{number}{HOSTILE}", "references": [HOSTILE, "token3"], "notes": [HOSTILE]}
            records.append(
                record(method, kv_budget, 50.0, number, **{**texts, **more}, prediction=HOSTILE, cell=HOSTILE)
            )
    records[0]["prediction"] = ("x <b>" * (LENGTH // 5))[:LENGTH]
    records[1] = {**records[1], "score": None, "infeasible": HOSTILE}
    line = {**kept_line(records[3]), "tokens": [HOSTILE if at % 3 == 0 else f" token{at}" for at in range(TOKENS)]}
    line["cells"] = [{"method": f"{m} {HOSTILE}", "preset": HOSTILE, "kv_budget": 64, "cell": HOSTILE} for m in "mn"]
    prompt = {key: line[key] for key in ("benchmark", "task", "seed", "sample_id")}
    about = {"titles": {f"m {HOSTILE}": HOSTILE, "full": HOSTILE}, "description": HOSTILE, "model": HOSTILE}
    stability = {
        **{"num_players": 4, "num_layers": 2, "num_kv_heads": 2},
        "tasks": {HOSTILE: {"runs": [[[0.1, 0.2], [0.3, 0.4]]], "head_removal": [
            {"cut": "top", "heads": 1, "score": 5.0, "low": 1.0, "high": 9.0, "full_score": 50.0}
        ]}},
    }  # fmt: skip
    (folder / "spec.json").write_text(json.dumps({"name": HOSTILE, "about": about, HOSTILE: {HOSTILE: [HOSTILE]}}))
    (folder / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    (folder / "metrics.json").write_text(json.dumps(aggregate(records)))
    (folder / "stability.json").write_text(json.dumps(stability))
    (folder / "prompts.jsonl").write_text(json.dumps({**prompt, "text": HOSTILE * 3, "question": HOSTILE}) + "\n")
    (folder / "kept_tokens.jsonl").write_text(json.dumps(line) + "\n")
    (folder / "done.json").write_text("{}")
    report = folder / "report"
    report.mkdir()
    return write_page(load_run(folder), report)


def test_hostile_text_runs_nothing_and_asks_for_nothing(fresh, hostile):
    from selenium.webdriver.common.by import By

    open_page(fresh, hostile)
    for number in range(3):
        fresh.execute_script("document.querySelectorAll('#samples button.open')[arguments[0]].click()", number)
        wait(fresh, "return document.querySelectorAll('.detail .tabulator-row').length === 3")
        for summary in fresh.find_elements(By.CSS_SELECTOR, ".detail summary"):
            fresh.execute_script("arguments[0].parentElement.open = true", summary)
    fresh.execute_script("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    fresh.execute_script(
        """for (const mark of document.querySelectorAll("svg [aria-roledescription]"))
             mark.dispatchEvent(new MouseEvent("mouseover", { bubbles: true, clientX: 5, clientY: 5 }));"""
    )
    fresh.execute_script("document.querySelectorAll('#samples .tabulator-cell, .chip').forEach(one => one.click())")
    wait(fresh, "return document.querySelectorAll('.detail .tabulator-row').length === 3")
    assert fresh.execute_script("return window.ran") is None
    assert "<U+202E>" in fresh.title and "\u202e" not in fresh.title
    assert (
        fresh.execute_script(
            "return document.querySelectorAll('body img, body iframe, body style, main script').length"
        )
        == 0
    )
    links = fresh.execute_script("return [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert links and all(link.startswith("#") for link in links)
    shown = fresh.execute_script(
        "return document.body.textContent.replace(document.getElementById('data').textContent, '')"
    )
    assert "\u202e" not in fresh.execute_script("return document.querySelector('main').textContent")
    assert "<U+202E>" in shown and "<U+001B>" in shown and "<U+D800>" in shown
    assert console(fresh) == [] and set(requests(fresh)) == {hostile.resolve().as_uri()}


def test_a_long_answer_is_shortened_and_can_be_read_whole(fresh, hostile):
    from selenium.webdriver.common.by import By

    open_page(fresh, hostile)
    fresh.execute_script("document.querySelector('#samples button.open').click()")
    long = """const long = [...document.querySelectorAll(".detail .long")]
        .find(one => one.textContent.includes("10,000,000"))"""
    assert wait(fresh, f"{long}; return long?.textContent.length") < 500
    fresh.execute_script(f"{long}; long.querySelector('button').click()")
    assert fresh.find_element(By.CSS_SELECTOR, "dialog [role=status]").text == "characters 1 to 20,000 of 10,000,000"
    read = fresh.execute_script(
        """let length = 0;
           const [next] = [...document.querySelectorAll("dialog button")].filter(b => b.textContent.startsWith("next"));
           for (let part = 0; part < 500; part += 1) {
             length += document.querySelector("dialog pre").textContent.length;
             next.click();
           }
           return length;"""
    )
    assert read == LENGTH
    fresh.find_element(By.CSS_SELECTOR, "dialog .close").click()
    assert wait(fresh, "return document.querySelector('dialog') === null")


def test_kept_tokens_that_cannot_be_read_are_said_and_lose_nothing_else(fresh, hostile, tmp_path):
    folder = Path(shutil.copytree(hostile.parent.parent, tmp_path / "run"))
    line = json.loads((folder / "kept_tokens.jsonl").read_text())
    (folder / "kept_tokens.jsonl").write_text(json.dumps({**line, "patterns": "AAAA"}) + "\n")
    open_page(fresh, write_page(load_run(folder), folder / "report"))
    fresh.execute_script("document.querySelectorAll('#samples button.open')[0].click()")
    text = wait(fresh, "return document.querySelector('.detail .warning')?.textContent")
    assert text.startswith("Its kept tokens cannot be read")
    wait(fresh, "return document.querySelectorAll('.detail .tabulator-row').length === 3")


def test_samples_beside_the_page_are_read_when_opened(fresh, whole_run, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "INSIDE", 0)
    beside = write_page(load_run(whole_run), tmp_path)
    open_page(fresh, beside)
    assert set(requests(fresh)) == {beside.resolve().as_uri()}, "nothing is read before a sample is opened"
    fresh.execute_script("document.querySelector('#samples button.open').click()")
    wait(fresh, "return document.querySelectorAll('.detail .tabulator-row').length > 5")
    assert set(requests(fresh)) == {(tmp_path / write.BESIDE / "0000.js").resolve().as_uri()}
    assert console(fresh) == []
    for file in (tmp_path / write.BESIDE).iterdir():
        file.unlink()
    open_page(fresh, beside)
    fresh.execute_script("document.querySelector('#samples button.open').click()")
    text = wait(fresh, "return document.querySelector('.detail .warning')?.textContent")
    assert "0000.js is not beside this page" in text
