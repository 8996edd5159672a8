"""A browser without a window (Debian's chromium and chromedriver), for what measures and tests the page."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--force-device-scale-factor=1"),
)
PROGRAMS = ("chromium", "chromedriver")


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """A selenium driver with a user folder of its own, its console and its requests logged."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    with tempfile.TemporaryDirectory(prefix="page-browser-", ignore_cleanup_errors=True) as user:
        for flag in (*FLAGS, f"--window-size={width},{height}", f"--user-data-dir={user}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.set_script_timeout(120)
            driver.get("about:blank")
            driver.get_log("performance")  # of the browser's own first page
            yield driver
        finally:
            driver.quit()


def open_page(driver: Any, page: Path, seconds: float = 120) -> None:
    """Opens a page from disk and waits until it has drawn itself."""
    driver.get(page.resolve().as_uri())
    wait(driver, "return document.documentElement.dataset.ready === 'yes'", seconds)


def wait(driver: Any, script: str, seconds: float = 60) -> Any:
    """The first true value of a script."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := driver.execute_script(script):
            return value
        time.sleep(0.05)
    raise TimeoutError(f"not within {seconds} s: {script}")


def console(driver: Any) -> list[str]:
    """What the page has complained of since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests(driver: Any) -> list[str]:
    """Addresses that were asked for since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
