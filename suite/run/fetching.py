"""The known model of an experiment is fetched where it is not there: the one download unasked, and it is announced."""

from __future__ import annotations

import sys

from cokv.model import store
from cokv.model.fetch import fetch
from cokv.model.known import KNOWN
from cokv.types import CokvError
from suite.errors import SuiteError


def fetch_known(name: str) -> None:
    """Fetches a known model that is not on this machine. Raises SuiteError where it cannot be had."""
    if name not in KNOWN or store.is_converted(KNOWN[name].sha256):
        return
    _say(f"model {name} is not on this machine yet")
    try:
        fetch(name, _say)
    except CokvError as error:
        raise SuiteError(f"{error}. An experiment that needs no download: --experiment embedded") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
