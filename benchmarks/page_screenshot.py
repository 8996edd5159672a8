"""Pictures of a run's page for the docs: its beginning, and a sample with the tokens that a method kept.

    python benchmarks/page_screenshot.py RUN [--out docs/img] [--sample 1] [--method CoKV] [--kv-budget 128]

The second picture needs a run that stored kept tokens. RUN may be unfinished.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from page_browser import browser, missing_programs, open_page, wait

from reports import load_run
from reports.page import write_page

WIDTH, HEIGHT = 1280, 1360
# Only the section of the samples, with the sample's answers cut off: (method, budget) -> whether the tokens are drawn.
SAMPLE = """
const [at, method, budget] = arguments, done = arguments[arguments.length - 1];
for (const section of document.querySelectorAll("section")) section.hidden = section.id !== "samples";
page.samples.open(at).then(() => {
  const choose = (label, text) => {
    const holder = [...document.querySelectorAll(".kept label")]
      .find((one) => one.querySelector("span").textContent === label);
    const options = [...holder.querySelectorAll("option")];
    const option = options.find((one) => one.textContent === text);
    if (!option) return done(`no ${label} ${text} among ${options.map((one) => one.textContent).join(", ")}`);
    holder.querySelector("select").value = option.value;
    holder.querySelector("select").dispatchEvent(new Event("change"));
  };
  choose("Method", method);
  choose("KV budget", budget);
  document.querySelector(".detail h3").scrollIntoView();
  setTimeout(() => done(""), 500);
});
"""


def take(driver: Any, page: Path, out: Path, sample: int, method: str, kv_budget: str) -> list[Path]:
    open_page(driver, page)
    wait(driver, "return document.querySelectorAll('#overview .picture svg path').length > 10")
    paths = [out / "page.png"]
    driver.save_screenshot(str(paths[0]))
    at = driver.execute_script("return data.samples.shown.lastIndexOf(1, arguments[0])", sample)
    if at < 0:
        print("the run stored no kept tokens: no second picture")
        return paths
    if problem := driver.execute_async_script(SAMPLE, at, method, kv_budget):
        raise SystemExit(problem)
    paths.append(out / "page_kept_tokens.png")
    driver.save_screenshot(str(paths[1]))
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    parser.add_argument(
        "--sample", type=int, default=1, help="Its place in the list, or the last before it with kept tokens."
    )
    parser.add_argument("--method", default="CoKV")
    parser.add_argument("--kv-budget", default="128")
    options = parser.parse_args()
    if missing := missing_programs():
        raise SystemExit(f"not installed: {', '.join(missing)}; on Debian: apt-get install chromium chromium-driver")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser(WIDTH, HEIGHT) as driver:
        page = write_page(load_run(options.run, allow_unfinished=True), Path(folder))
        for path in take(driver, page, options.out, options.sample, options.method, options.kv_budget):
            print(path)


if __name__ == "__main__":
    main()
