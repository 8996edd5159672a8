"""`python -m suite.profiles.shipped RUN`: writes the profiles that ship with a model from a run of it.

RUN is the folder of a finished run on the embedded model or on a known one, such as experiments/embedded.toml's. The
profiles per model are copied, and the reasons why it has none; of the Shapley values, which come per task, the mean
over its tasks is written. The embedded model ships all of them or none.
"""

from __future__ import annotations

import shutil
import sys
from importlib.resources import files
from pathlib import Path

from cokv.model import store
from cokv.model.known import KNOWN
from cokv.profiles import shipped as places
from cokv.profiles.shipped import REASON, SUFFIX
from suite.errors import USER_ERRORS, SuiteError
from suite.profiles.profile_folder import SHAPLEY_FILE, digest_of, stored_in

PER_MODEL = ("headkv_r", "headkv_r2", "lukv-normalized", "duoattention-normalized", "razorattention")


def model_of(run: Path) -> str:
    """The model that a run was on: `embedded`, or a known one. Raises SuiteError for any other."""
    digests = {store.content_digest(Path(str(files("cokv.embedded") / "weights"))): "embedded"}
    digests |= {store.digest_of(known.sha256): name for name, known in KNOWN.items()}
    digest = digest_of(run)
    if digest not in digests:
        raise SuiteError(
            f"{run} was run on a model of digest {digest}; expected {', '.join(digests.values())}, as they are now"
        )
    return digests[digest]


def make(run: Path, out: Path | None = None) -> list[Path]:
    """Writes the shipped profiles into `out`, by default the model's own folder; nothing unless all can be written."""
    if not (run / "done.json").is_file():
        raise SuiteError(f"{run} is no finished run; run `cokv reproduce` to its end and name its folder")
    model, stored = model_of(run), stored_in(run)
    sources = [stored.folder / f"{name}{SUFFIX}" for name in PER_MODEL]
    if model != "embedded":
        sources = sorted(file for file in stored.folder.glob("*") if file.suffix in (SUFFIX, REASON))
    missing = [file.stem for file in sources if not file.is_file()]
    if stored.shapley is None:
        missing.append("head scores")
    if stored.shapley is None or missing:
        raise SuiteError(f"{run} has no {', '.join(missing)}; name a run whose methods need every profile")
    out = out or (places.EMBEDDED if model == "embedded" else places.KNOWN / model)
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for source in sources:
        written.append(out / source.name)
        shutil.copyfile(source, written[-1])
    written.append(out / SHAPLEY_FILE)
    stored.shapley.save(written[-1])
    for file in written:
        file.chmod(0o644)
    return written


def main(arguments: list[str], out: Path | None = None) -> int:
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
