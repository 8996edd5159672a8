"""What is around the installation: model cache, hub, token, TeX, browser, test data. No secret is ever shown."""

from __future__ import annotations

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from suite.doctor.check import Check, Finding, State
from suite.doctor.hardware import disk

CONNECT = 3.0  # seconds
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
ENGINES = ("pdflatex", "lualatex", "xelatex", "tectonic")
STYLES = ("booktabs.sty", "graphicx.sty")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def checks() -> list[Check]:
    return [
        Check("models", "model cache", model_cache),
        Check("models", "known models", known_models),
        Check("models", "hub", hub, limit=CONNECT, early=True),
        Check("models", "hub token", token),
        Check("tools", "tex", tex),
        Check("tools", "browser", browser),
        Check("tools", "test data", test_data),
    ]


def model_cache() -> Finding:
    """Where converted models are kept, and its disk."""
    from cokv.model.known import KNOWN
    from cokv.model.store import cache_folder, is_converted

    model = KNOWN["smollm2-135m"]
    needed = 0 if is_converted(model.sha256) else 2 * model.size + 4 * model.parameters
    return disk(cache_folder(), needed, "set COKV_CACHE to another folder")


def known_models() -> Finding:
    from cokv.model.known import KNOWN
    from cokv.model.store import is_converted

    there = [known.name for known in KNOWN.values() if is_converted(known.sha256)]
    absent = [known for known in KNOWN.values() if known.name not in there]
    facts = {"present": there, "absent": [known.name for known in absent]}
    if not absent:
        return Finding(State.OK, ", ".join(there), facts=facts)
    missing = ", ".join(f"{known.name} ({known.size / 1e6:.0f} MB)" for known in absent)
    detail = f"{', '.join(there) or 'none'}; not here yet: {missing}"
    remedy = f"cokv model fetch {absent[0].name} (`cokv reproduce` does so by itself)"
    return Finding(State.OK if there else State.ABSENT, detail, remedy, facts)


def hub() -> Finding:
    """Whether the hub answers. A server that says no is one that answers."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    off = [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    if off:
        detail = f"switched off by {', '.join(off)}; models and data of its cache are used"
        return Finding(State.ABSENT, detail, f"unset {' '.join(off)}", {"reachable": None, "offline": off})
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=CONNECT):
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        detail = f"{_shown(endpoint)} cannot be reached ({reason}); known models come through pip"
        remedy = "check the connection or HTTPS_PROXY; export HF_HUB_OFFLINE=1 saves the waiting"
        return Finding(State.ABSENT, detail, remedy, {"reachable": False, "offline": []})
    return Finding(State.OK, f"{_shown(endpoint)} answers", facts={"reachable": True, "offline": []})


def _shown(endpoint: str) -> str:
    """An address without a name and password in it."""
    scheme, mark, rest = endpoint.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"


def token() -> Finding:
    """Whether there is one; never which."""
    from huggingface_hub import get_token

    present = bool(get_token())
    if present:
        return Finding(State.OK, "present", facts={"present": True})
    detail = "none; gated models such as Llama's need one"
    return Finding(State.ABSENT, detail, "hf auth login", {"present": False})


def tex() -> Finding:
    """An engine for the tables in LaTeX, and the styles they use. Only their own tests need it."""
    engines = [name for name in ENGINES if shutil.which(name)]
    facts: dict[str, list[str]] = {"engines": engines, "missing_styles": []}
    install = "apt-get install texlive-latex-base texlive-latex-recommended"
    if not engines:
        return Finding(State.ABSENT, "no TeX engine; tables are written and not compiled", install, facts)
    if shutil.which("kpsewhich") and engines != ["tectonic"]:
        facts["missing_styles"] = [style for style in STYLES if not _printed("kpsewhich", style)]
    if facts["missing_styles"]:
        return Finding(State.ABSENT, f"{engines[0]} without {', '.join(facts['missing_styles'])}", install, facts)
    return Finding(State.OK, ", ".join(engines), facts=facts)


def _printed(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CONNECT)
    return done.stdout.strip()


def browser() -> Finding:
    """A headless browser. Only the tests of the page need one."""
    names = [name for name in BROWSERS if shutil.which(name)]
    facts = {"browsers": names, "driver": bool(shutil.which("chromedriver"))}
    if names and facts["driver"]:
        return Finding(State.OK, f"{names[0]} with chromedriver", facts=facts)
    missing = "no chromedriver" if names else "no Chromium"
    detail = f"{missing}; the page's own tests are skipped"
    return Finding(State.ABSENT, detail, "apt-get install chromium chromium-driver", facts)


def test_data() -> Finding:
    """The official files that some tests compare with."""
    place = os.environ.get("COKV_TEST_DATA")
    facts = {"set": place is not None, "folder": place is not None and Path(place).is_dir()}
    if place is None:
        detail = "COKV_TEST_DATA is not set; tests against official files are skipped"
        return Finding(State.ABSENT, detail, "export COKV_TEST_DATA=FOLDER", facts)
    if not facts["folder"]:
        return Finding(State.WARNING, f"COKV_TEST_DATA is {place}, no folder", "export COKV_TEST_DATA=FOLDER", facts)
    return Finding(State.OK, "COKV_TEST_DATA is a folder", facts=facts)
