"""Whether a Ray cluster is still there. Ray itself waits for minutes, or for ever, for daemons that have died.

Every call that a dead daemon could leave without an answer has a limit here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from cokv.types import CokvError

CHECK_INTERVAL = 5.0  # seconds between two looks
ANSWER_TIMEOUT = 20.0  # seconds that a cluster may take to say which of its nodes are alive
CLOSE_TIMEOUT = 10.0  # seconds for leaving a cluster


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """The call's result. Raises TimeoutError where it takes longer; it then goes on in a thread that ends with the
    process.
    """
    results: list[Any] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return results[0]


def check_alive(ray: Any, home: str) -> None:
    """Raises CokvError unless the cluster answers and the node of this process, `home`, is alive in it."""
    try:
        nodes = within(ANSWER_TIMEOUT, ray.nodes)
    except Exception as error:
        raise _lost(f"its head does not answer ({' '.join(str(error).split())[:200]})") from None
    if not any(node["Alive"] and node["NodeID"] == home for node in nodes):
        raise _lost("the Ray daemon of this machine (raylet) has died")


def _lost(how: str) -> CokvError:
    return CokvError(
        f"the Ray cluster is lost: {how}; this is often memory. Start it again, then run the same command again: it "
        "goes on from what is written"
    )


def leave(ray: Any) -> None:
    """Ends the connection, or leaves it to the end of the process where the cluster does not answer."""
    with suppress(Exception):
        within(CLOSE_TIMEOUT, ray.shutdown)
