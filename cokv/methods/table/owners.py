"""Who sets a parameter that is not fixed by the paper of its method; see `Owner` in cokv/methods/method.py."""

from __future__ import annotations

from collections.abc import Mapping

from cokv.methods.method import Owner


def swept(*names: str) -> Mapping[str, Owner]:
    """Parameters of which the papers try several values: the experiment sets them."""
    return dict.fromkeys(names, "experiment")


WINDOW = swept("window_size", "kernel_size", "pooling")
QUANTIZED = swept("group", "residual")
PRUNED = swept("pruned", "recent", "window_size")
