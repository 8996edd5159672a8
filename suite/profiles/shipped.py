"""`python -m suite.profiles.shipped RUN`: the profiles that ship with the embedded model, made again from a run of it.

RUN is the folder of a finished run that computed all of them, such as experiments/embedded.toml's. The profiles per
model are copied; of the Shapley values, which come per task, the mean over its tasks is written.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cokv.model.loading import load_model
from suite.errors import USER_ERRORS, SuiteError
from suite.profiles.stored import SHAPLEY_FILE, of_run

SHIPPED = Path(__file__).parents[2] / "cokv" / "embedded" / "profiles"
PER_MODEL = ("headkv_r", "headkv_r2", "lukv-normalized", "duoattention-normalized", "razorattention")


def make(run: Path, out: Path) -> list[Path]:
    """Writes the shipped profiles into `out`. Nothing is written unless the run has all of them, on today's weights."""
    if not (run / "done.json").is_file():
        raise SuiteError(f"{run} is no finished run; run `cokv reproduce` to its end and name its folder")
    stored = of_run(run, None, load_model())
    sources = [stored.folder / f"{name}.safetensors" for name in PER_MODEL]
    lacking = [file.stem for file in sources if not file.is_file()]
    if stored.shapley is None:
        lacking.append("head scores")
    if stored.shapley is None or lacking:
        raise SuiteError(f"{run} has no {', '.join(lacking)}; name a run whose methods need every profile")
    out.mkdir(parents=True, exist_ok=True)
    made = []
    for source in sources:
        made.append(out / source.name)
        shutil.copyfile(source, made[-1])
    made.append(out / SHAPLEY_FILE)
    stored.shapley.save(made[-1])
    for file in made:
        file.chmod(0o644)
    return made


def main(arguments: list[str], out: Path = SHIPPED) -> int:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if len(arguments) != 1:
        print("usage: python -m suite.profiles.shipped RUN", file=sys.stderr)
        return 2
    try:
        for file in make(Path(arguments[0]), out):
            print(file)
    except USER_ERRORS as error:
        print(f"cokv: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
