"""`cokv lm-eval ...`: lm-eval's own command line, with the back end `cokv` registered.

lm-eval up to 0.4.13 loads no models of other packages; later versions find this one by its entry point.
"""

from __future__ import annotations

import os
import sys

import typer

from suite.cli.commands import reported
from suite.errors import SuiteError

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@reported
def lm_eval(context: typer.Context) -> None:
    """lm-evaluation-harness with `--model cokv`: every task on a compressed cache. Arguments are lm-eval's own.

    cokv lm-eval --model cokv --model_args pretrained=embedded,method=snapkv,kv_budget=128 --tasks TASK
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        from lm_eval.__main__ import cli_evaluate

        import suite.integrations.lm_eval_model  # registers the back end
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise SuiteError("lm-eval is not installed; install it with `pip install cokv[lm-eval]`") from None
    del suite
    before = sys.argv
    sys.argv = ["lm_eval", *context.args]
    try:
        cli_evaluate()
    finally:
        sys.argv = before
