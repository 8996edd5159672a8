"""What an experiment needs of a machine: memory, disk, weights, data; and what of it this machine lacks.

Nothing is loaded or fetched. What cannot be known without the weights is None.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from cokv import probes
from cokv.model import store
from cokv.model.known import KNOWN
from cokv.model.shape import Shape, model_shape
from cokv.model.weights import BYTES, EMBEDDED, weights_bytes
from cokv.types import CokvError
from longbench.sources import HUB_REPO, HUB_REPO_V2, HUB_REVISION, HUB_REVISION_V2
from longbench.tasks import V2
from longbench.templates import fetch_command, files_for
from ruler.essays import BUNDLED
from suite.errors import SuiteError
from suite.known.gpus import BATCH_BYTES, GPU, gpus
from suite.known.models import hub_models
from suite.run.cells import grid_cells
from suite.run.estimate import kv_bytes_per_token
from suite.run.task_sizes import TaskSize, task_sizes
from suite.spec import Experiment, ModelSpec
from suite.tasks.hub_rows import repo_of

RECORD_BYTES = 1160  # of a run's folder per record: the default run's 3.8 MiB of 3,444 records
TOKEN_BYTES = 5  # of an answer's text, beside that
GIB = 1 << 30
PROMPT_COPIES = 3  # hidden states, and the MLP's two products, of a prompt in one layer while it is read


@dataclass(frozen=True)
class Missing:
    """Something that this machine lacks, and one line that says how to get it."""

    kind: Literal["weights", "data", "device", "disk"]
    what: str
    remedy: str


@dataclass(frozen=True)
class Source:
    """A data set's source: a path, or a hub repository with its commit. here: it can be read without a connection.
    remedy: the command that brings it here."""

    name: str
    source: str
    here: bool
    remedy: str


@dataclass(frozen=True)
class Requirements:
    """What a machine must have, and what this one lacks.

    parameters, weights_bytes (in the run's dtype), kv_bytes_per_token: of the model, None where its shape is not
    known. prompt_tokens: of the longest prompt. peak_bytes: of the device, at most: weights, one prompt's cache, a
    batch of rows, and a layer's activations. records: lines of predictions.jsonl; run_bytes: of the run's folder.
    storage_bytes: weights as downloaded (two bytes a parameter), and the run's folder. hardware: the GPU that the
    experiment is sized for; None where it names none.
    """

    parameters: int | None
    weights_bytes: int | None
    kv_bytes_per_token: int | None
    prompt_tokens: int | None
    peak_bytes: int | None
    records: int
    run_bytes: int
    storage_bytes: int | None
    data_sets: tuple[Source, ...]
    hardware: GPU | None
    missing: tuple[Missing, ...]


def requirements(experiment: Experiment, runs: Path = Path("runs")) -> Requirements:
    """What this experiment needs, and what this machine lacks of it. runs: where its run folder would be."""
    spec = experiment.model
    shape, intermediate = _shape(spec)
    weights, parameters = _weights(spec)
    try:
        tasks = task_sizes(experiment)
    except SuiteError:  # lengths that are not known without the data
        tasks = []
    per_token = None if shape is None else kv_bytes_per_token(shape, BYTES[spec.dtype])
    longest = _longest(tasks, shape)
    peak = None
    if weights is not None and per_token is not None and longest is not None:
        answer = max(task.new_tokens for task in tasks)
        row = per_token * (longest + answer) if _has_full_row(experiment) else 0
        activations = PROMPT_COPIES * longest * (intermediate or 0) * BYTES[spec.dtype]
        peak = weights + per_token * longest + max(BATCH_BYTES, row) + activations
    grid = len(grid_cells(experiment))
    records = grid * sum(task.samples for task in tasks)
    run_bytes = sum(grid * task.samples * (RECORD_BYTES + TOKEN_BYTES * task.new_tokens) for task in tasks)
    downloaded = None if parameters is None else 2 * parameters
    sources = tuple(data_sources(experiment))
    hardware = None if experiment.paper is None else gpus()[experiment.paper.hardware]
    missing = [*_missing_weights(spec), *_missing_data(sources), *_missing_device(spec, weights, peak)]
    missing += _missing_disk(runs, run_bytes + (0 if _weights_are_here(spec) else downloaded or 0))
    return Requirements(
        parameters=parameters,
        weights_bytes=weights,
        kv_bytes_per_token=per_token,
        prompt_tokens=longest,
        peak_bytes=peak,
        records=records,
        run_bytes=run_bytes,
        storage_bytes=None if downloaded is None else downloaded + run_bytes,
        data_sets=sources,
        hardware=hardware,
        missing=tuple(missing),
    )


def with_remedies(error: Exception, experiment: Experiment) -> Exception:
    """A run's error; of a hub model in its place what this machine lacks, with the commands that bring it here."""
    if experiment.model.name not in hub_models():
        return error
    lacks = [lack for lack in requirements(experiment).missing if lack.kind in ("weights", "data")]
    if not lacks:
        return error
    listed = "; ".join(f"{lack.what}, get it with: {lack.remedy}" for lack in lacks)
    tried = "" if any(lack.remedy in str(error) for lack in lacks) else f"; tried first: {error}"
    return SuiteError(f"not on this machine: {listed}{tried}")


def _longest(tasks: list[TaskSize], shape: Shape | None) -> int | None:
    """Tokens of the longest prompt; where a protocol does not cut, as many as the model has positions."""
    positions = None if shape is None else shape.context_length
    lengths = [positions if task.longest is None else task.longest for task in tasks]
    known = [length for length in lengths if length is not None]
    return max(known) if known and len(known) == len(lengths) else None


def _has_full_row(experiment: Experiment) -> bool:
    return any(cell.kv_budget is None for cell in grid_cells(experiment))


def _shape(spec: ModelSpec) -> tuple[Shape | None, int | None]:
    """The model's shape and the width of its MLP, from the table or from a config on this machine."""
    if (known := hub_models().get(spec.name)) is not None:
        positions = max(spec.positions or 0, known.positions)
        return replace(known.shape, context_length=positions), known.intermediate
    folder = _folder(spec)
    if folder is None:
        return None, None
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        return model_shape(config), getattr(config, "intermediate_size", None)
    except (CokvError, OSError, ValueError, KeyError):
        return None, None  # loading says why


def _folder(spec: ModelSpec) -> Path | None:
    """Where a model's files are on this machine; None: not here, or a single file."""
    if spec.name == EMBEDDED:
        return Path(str(files("cokv.embedded") / "weights"))
    if spec.name in KNOWN:
        folder = store.converted_folder(KNOWN[spec.name].sha256)
        return folder if folder.is_dir() else None
    path = Path(spec.name).expanduser()
    if path.is_dir():
        return path
    return None if path.is_file() or spec.revision is None else _snapshot("models", spec.name, spec.revision)


def _snapshot(kind: str, repo: str, revision: str) -> Path | None:
    """A commit's folder in the hub's cache on this machine. kind: models or datasets."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"{kind}--{repo.replace('/', '--')}" / "snapshots" / revision
    return folder if folder.is_dir() else None


def _weights(spec: ModelSpec) -> tuple[int | None, int | None]:
    """(bytes in the run's dtype, parameters)."""
    here = weights_bytes(spec.name, spec.revision, spec.dtype)
    if here is not None:
        return here, here // BYTES[spec.dtype]
    known = hub_models().get(spec.name)
    return (None, None) if known is None else (known.parameters * BYTES[spec.dtype], known.parameters)


def _weights_are_here(spec: ModelSpec) -> bool:
    if spec.name in KNOWN:
        return store.is_converted(KNOWN[spec.name].sha256)
    return Path(spec.name).expanduser().is_file() or weights_bytes(spec.name, spec.revision, spec.dtype) is not None


def _missing_weights(spec: ModelSpec) -> list[Missing]:
    if _weights_are_here(spec):
        return []
    return [Missing("weights", f"the weights of {spec.name}", fetch_weights(spec))]


def fetch_weights(spec: ModelSpec) -> str:
    """The command that brings a model's weights to this machine."""
    if spec.name in KNOWN:
        return f"cokv model fetch {spec.name}"
    known = hub_models().get(spec.name)
    revision = spec.revision or (known.revision if known is not None else None)
    pinned = "" if revision is None else f" --revision {revision}"
    licence = (
        " (first accept its licence on the hub, then `hf auth login`)" if known is not None and known.gated else ""
    )
    return f"hf download {spec.name}{pinned}{licence}"


def data_sources(experiment: Experiment) -> list[Source]:
    """The data that the experiment reads and that does not ship: templates, data sets, essays, questions, profiles."""
    sources = []
    if (longbench := experiment.longbench) is not None:
        names = files_for(longbench.tasks)
        folder = Path(longbench.templates)
        here = all((folder / name).is_file() for name in names)
        sources.append(Source("LongBench's templates", longbench.templates, here, fetch_command(folder, names)))
        if longbench.data is None:
            if any(task != V2.name for task in longbench.tasks):
                sources.append(_hub_file("LongBench", HUB_REPO, HUB_REVISION, "data.zip"))
            if V2.name in longbench.tasks:
                sources.append(_hub_file("LongBench v2", HUB_REPO_V2, HUB_REVISION_V2, "data.json"))
        else:
            sources.append(_data("LongBench", longbench.data, longbench.hub_revision))
    if (ruler := experiment.ruler) is not None:
        if ruler.data is not None:
            sources.append(_data("RULER", ruler.data, ruler.hub_revision))
        if ruler.essays is not None and ruler.essays not in BUNDLED:
            sources.append(_data("essays", ruler.essays, None))
        sources += [_data(f"questions of {task}", path, None) for task, path in ruler.questions.items()]
    if experiment.needle is not None and experiment.needle.essays not in BUNDLED:
        sources.append(_data("essays", experiment.needle.essays, None))
    return sources


def _hub_file(name: str, repo: str, revision: str, file: str) -> Source:
    snapshot = _snapshot("datasets", repo, revision)
    remedy = f"hf download {repo} {file} --repo-type dataset --revision {revision}"
    return Source(name, f"{repo} at {revision}", snapshot is not None and (snapshot / file).exists(), remedy)


def _data(name: str, data: str, revision: str | None) -> Source:
    repo = repo_of(data)
    if repo is None or revision is None:
        return Source(name, data, Path(data).expanduser().exists(), f"put it at {data}, or name its place in the file")
    remedy = f"hf download {repo} --repo-type dataset --revision {revision}"
    return Source(name, f"{repo} at {revision}", _snapshot("datasets", repo, revision) is not None, remedy)


def _missing_data(sources: tuple[Source, ...]) -> list[Missing]:
    return [Missing("data", f"{source.name}: {source.source}", source.remedy) for source in sources if not source.here]


def _missing_device(spec: ModelSpec, weights: int | None, peak: int | None) -> list[Missing]:
    needed = "" if peak is None else f" of {peak / GIB:.0f} GiB"
    if not spec.device.startswith("cuda"):
        memory = probes.machine().get("memory_bytes")
        if peak is None or memory is None or memory >= peak:
            return []
        return [
            Missing(
                "device", f"memory: {memory / GIB:.0f} GiB of {peak / GIB:.0f}", f"a machine with {peak / GIB:.0f} GiB"
            )
        ]
    import torch

    if not torch.cuda.is_available():
        return [
            Missing("device", "a CUDA GPU", f"a machine with a GPU{needed}, or --device cpu, which takes far longer")
        ]
    memory = torch.cuda.get_device_properties(spec.device).total_memory
    if peak is None or memory >= peak:
        return []
    return [
        Missing(
            "device",
            f"GPU memory: {memory / GIB:.0f} GiB{needed}",
            f"a GPU with {peak / GIB:.0f} GiB, or shorter prompts",
        )
    ]


def _missing_disk(runs: Path, needed: int) -> list[Missing]:
    place = next(folder for folder in (runs.absolute(), *runs.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if free >= needed:
        return []
    return [
        Missing(
            "disk",
            f"disk space: {free / GIB:.0f} GiB of {needed / GIB:.0f}",
            "free some, or give --runs and HF_HOME another disk",
        )
    ]
