"""Where LongBench's files come from: a folder, the official `data.zip`, or the hub at a pinned revision.

The hub's data set is a script that current `datasets` refuses to run, so its `data.zip` is fetched and read as it is;
version 2 is one `data.json` in a repository of its own.
An archive is never unpacked: the one member needed is streamed, and an archive that names paths outside itself is
refused whole.
"""

from __future__ import annotations

import lzma
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from longbench.data import DataSet, parse_dataset, read_dataset, read_v2_array
from longbench.errors import LongBenchError
from longbench.jsonl import FILE_LIMIT, LINE_LIMIT
from longbench.tasks import V2, get_task

HUB_REPO = "THUDM/LongBench"
HUB_REVISION = "313939aaa70997a6fb4e5033ff431e0f5744569f"
HUB_REPO_V2 = "THUDM/LongBench-v2"
HUB_REVISION_V2 = "2b48e494f2c7a2f0af81aae178e05c7e1dde0fe9"
"""Commits of the data sets' repositories, named in every record; looked up in stored copies of the hub's pages."""

OFFICIAL_REPOS = {HUB_REPO: HUB_REVISION, HUB_REPO_V2: HUB_REVISION_V2}
OFFICIAL_REPOS |= {repo.replace("THUDM/", "zai-org/"): revision for repo, revision in OFFICIAL_REPOS.items()}
"""Repositories of the official `data.zip` and `data.json`, under the owner's old and new name, and their commits."""

FORMATTED_REPOS = (
    "Xnhyacinth/LongBench",
    "Xnhyacinth/LongBench-e",
    "Xnhyacinth/LongBench-v2",
    "simonjegou/LongBench-v2",
)
"""kvpress's: prompts in its own division (context, question, answer_prefix), from which no official record follows."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_dataset(source: Path | str, name: str, *, partial: bool = False, line_limit: int = LINE_LIMIT) -> DataSet:
    """The data set `name` from a folder, a `data.zip` or a single `.jsonl` file."""
    get_task(name)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, name, partial, line_limit)
    if not path.is_file():
        raise LongBenchError(
            f"got the source {str(path)!r}, which is neither a file nor a folder; expected the official data.zip, "
            f"the folder it unpacks to, or {name}.jsonl"
        )
    if get_task(name) is V2 and path.suffix == ".json":
        return read_v2_array(path, partial=partial)
    if path.suffix == ".jsonl":
        return read_dataset(path, name, partial=partial, line_limit=line_limit)
    return _from_zip(path, name, partial, line_limit)


def _from_folder(folder: Path, name: str, partial: bool, line_limit: int) -> DataSet:
    tried = [folder / f"{name}.jsonl", folder / "data" / f"{name}.jsonl"]
    for path in tried:
        if path.is_file():
            return read_dataset(path, name, partial=partial, line_limit=line_limit)
    if get_task(name) is V2 and (folder / "data.json").is_file():
        return read_v2_array(folder / "data.json", partial=partial)
    if (folder / "data.zip").is_file():
        return _from_zip(folder / "data.zip", name, partial, line_limit)
    present = sorted(path.stem for path in folder.glob("*.jsonl")) or ["no .jsonl file"]
    raise LongBenchError(
        f"{folder}: no {name}.jsonl there or in data/, and no data.zip; got {', '.join(present[:25])}; "
        "give the folder that data.zip unpacks to"
    )


def _from_zip(path: Path, name: str, partial: bool, line_limit: int, revision: str | None = None) -> DataSet:
    try:
        with zipfile.ZipFile(path) as archive:
            member = _member(archive, path, name)
            with archive.open(member) as stream:
                source = f"{path}!{member.filename}"
                return parse_dataset(stream, name, source, partial=partial, revision=revision, line_limit=line_limit)
    except zipfile.BadZipFile as error:
        raise LongBenchError(f"{path}: not a whole zip archive ({error}); fetch data.zip again") from None
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise LongBenchError(f"{path}: damaged inside ({error or 'it ends early'}); fetch data.zip again") from None
    except RuntimeError as error:  # encrypted; an unknown compression or version is its child NotImplementedError
        raise LongBenchError(f"{path}: cannot be unpacked here ({error}); expected the official data.zip") from None
    except OSError as error:
        raise LongBenchError(
            f"cannot read {path} ({error.strerror or error}); expected the official data.zip"
        ) from None


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> zipfile.ZipInfo:
    """The archive's `<name>.jsonl`, once, and only from an archive whose every name stays inside it."""
    members = []
    for member in archive.infolist():
        inside = PurePosixPath(member.filename.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts or re.match(r"[A-Za-z]:", member.filename):
            raise LongBenchError(
                f"{path}: names {member.filename!r}, outside the archive; expected the official data.zip"
            )
        if inside.name == f"{name}.jsonl" and not member.is_dir():
            members.append(member)
    if len(members) != 1:
        raise LongBenchError(
            f"{path}: holds {len(members)} files named {name}.jsonl, expected one; fetch the official data.zip again"
        )
    if members[0].file_size > FILE_LIMIT:
        raise LongBenchError(
            f"{path}: {members[0].filename} unpacks to {members[0].file_size} bytes, expected at most {FILE_LIMIT}; "
            "this is not the official data.zip"
        )
    return members[0]


def load_from_hub(
    name: str,
    *,
    revision: str | None = None,
    repo: str | None = None,
    cache_dir: Path | str | None = None,
    endpoint: str | None = None,
    partial: bool = False,
) -> DataSet:
    """The data set `name` out of the hub's `data.zip` (version 2: `data.json`) at one commit, by default the
    pinned one. `endpoint` names a mirror.
    """
    v2 = get_task(name) is V2
    file = "data.json" if v2 else "data.zip"
    repo = repo or (HUB_REPO_V2 if v2 else HUB_REPO)
    if revision is None:
        revision = HUB_REVISION_V2 if v2 else HUB_REVISION
    if not _COMMIT.fullmatch(revision):
        raise LongBenchError(
            f"got the revision {revision!r}, expected the 40 hex digits of a commit (branches move): "
            f"git ls-remote https://huggingface.co/datasets/{repo}"
        )
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise LongBenchError("reading from the hub needs huggingface_hub: pip install huggingface_hub") from None
    try:
        fetched = hf_hub_download(
            repo, file, repo_type="dataset", revision=revision, cache_dir=cache_dir, endpoint=endpoint
        )
    except Exception as error:  # the client raises dozens of types: network, access, missing file, disk
        first = (str(error).strip().splitlines() or [""])[0]
        raise LongBenchError(
            f"cannot fetch {file} of {repo} at {revision} ({type(error).__name__}: {first}); "
            "download it yourself and give its path"
        ) from error
    if v2:
        return read_v2_array(Path(fetched), partial=partial, revision=revision)
    return _from_zip(Path(fetched), name, partial, LINE_LIMIT, revision)
