"""The command line called inside the test's process, and what a refusal must look like."""

from typing import Any

from typer.testing import CliRunner

from suite.cli.main import app


def call(*arguments: object) -> Any:
    """The result of `cokv ARGUMENTS`: exit_code, stdout, stderr, and output, which is both."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(result: Any) -> str:
    """The one line on stderr of a command that ended with exit code 2; only progress may stand before it."""
    assert result.exit_code == 2, result.output
    *progress, message = result.stderr.strip().splitlines()
    assert message.startswith("cokv: ") and "Traceback" not in result.output
    assert not any(line.startswith("cokv: ") or "left" not in line for line in progress), result.stderr
    return message
