"""`cokv doctor`: each absence is one line with its remedy, no check hides another, and no secret is shown."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import urllib.error
import urllib.request
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from command_line import call
from small_experiment import GOOD

from suite.doctor import attention, diagnosis, hardware, software, surroundings
from suite.doctor.check import Check, Finding, State, look
from suite.doctor.experiments import Machine, fit
from suite.experiment_files import DEFAULT, shipped_experiments
from suite.known.models import hub_models

ROOT = Path(__file__).parents[2]
SECRET = "hf_thisIsTheSecretOfATest"
LARGE = Machine(memory=10**12, hub=True, token=True)


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub is not asked, and no other work is seen: two calls say the same."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0), raising=False)

    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    for name in (*surroundings.OFFLINE, "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("suite.cli.doctor.shipped_experiments", few_experiments)


def few_experiments() -> dict[str, Path]:
    """Enough of them for a call that is not about experiments."""
    return {name: file for name, file in shipped_experiments().items() if name in (DEFAULT, "smoke")}


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plants the absence of distributions."""
    real = metadata.version

    def absent(*names: str) -> None:
        def version(name: str) -> str:
            if name in names:
                raise metadata.PackageNotFoundError(name)
            return real(name)

        monkeypatch.setattr(metadata, "version", version)

    return absent


def state_of(result: Any, name: str) -> dict[str, Any]:
    return next(check for check in json.loads(result.stdout)["checks"] if check["name"] == name)


def test_the_json_has_a_stable_schema(monkeypatch):
    monkeypatch.setattr("suite.cli.doctor.shipped_experiments", shipped_experiments)
    result = call("doctor", "--json")
    report = json.loads(result.stdout)
    assert report.keys() == {"schema", "default_experiment", "can_run_default", "checks"}
    assert report["schema"] == 1 and report["default_experiment"] == DEFAULT
    for check in report["checks"]:
        assert check.keys() == {"group", "name", "state", "detail", "remedy", "facts"}
        assert check["state"] in set(State) and check["detail"]
    names = {(check["group"], check["name"]) for check in report["checks"]}
    assert len(names) == len(report["checks"])
    assert {("software", "torch"), ("machine", "gpus"), ("models", "hub"), ("tools", "tex")} <= names
    assert {name for group, name in names if group == "experiments"} == set(shipped_experiments())
    assert result.exit_code == (0 if report["can_run_default"] else 1)


def test_what_is_missing_has_a_remedy():
    for check in json.loads(call("doctor", "--json").stdout)["checks"]:
        alone = check["name"] in ("gpus", "gpu measurements", *attention.ON_CUDA)  # no command adds a GPU
        assert check["remedy"] or check["state"] in ("ok", "failed") or alone, check


def test_the_words_name_every_check_and_every_remedy():
    shown, report = call("doctor").stdout, json.loads(call("doctor", "--json").stdout)
    for check in report["checks"]:
        assert check["name"] in shown
        if check["remedy"] and check["state"] != "ok":
            assert all(f"-> {remedy}\n" in shown for remedy in check["remedy"].splitlines())
    assert f"{DEFAULT}, the default experiment, can" in shown


@pytest.mark.parametrize("error", [RuntimeError("driver too old"), SystemExit(3), OSError("no such device")])
def test_a_check_that_fails_is_one_line_and_hides_no_other(monkeypatch, error):
    def fail() -> Any:
        raise error

    monkeypatch.setattr(hardware, "gpus", fail)
    monkeypatch.setattr(surroundings, "tex", fail)
    report = json.loads(call("doctor", "--json").stdout)
    failed = [check for check in report["checks"] if check["state"] == "failed"]
    assert [check["name"] for check in failed] == ["gpus", "tex"]
    assert all(type(error).__name__ in check["detail"] for check in failed)
    assert len([check for check in report["checks"] if check["group"] == "experiments"]) == len(few_experiments())


def test_a_check_that_hangs_is_given_up():
    end = threading.Event()
    found = look(Check("machine", "a hanging driver", lambda: Finding(State.OK, str(end.wait())), limit=0.05))
    assert found.state is State.FAILED and "no answer" in found.detail
    end.set()


@pytest.mark.parametrize("name", ["torch", "transformers"])
@pytest.mark.parametrize(("version", "words"), [("1.0.0", "1.0.0, needs >="), (None, "not installed")])
def test_a_library_out_of_range_is_a_problem(monkeypatch, name, version, words):
    real = software._installed
    monkeypatch.setattr(software, "_installed", lambda asked: version if asked == name else real(asked))
    result = call("doctor", "--json")
    check = state_of(result, name)
    assert (result.exit_code, check["state"]) == (1, "problem") and words in check["detail"]
    assert check["remedy"].startswith(f"python -m pip install --upgrade '{name}>=")


def test_a_library_that_cannot_be_imported_is_a_problem(monkeypatch):
    def broken(name: str) -> Any:
        raise ImportError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(software.importlib, "import_module", broken)
    found = software.library("torch")
    assert found.state is State.PROBLEM and "libcudart" in found.detail and "--force-reinstall" in found.remedy


def test_a_needed_package_that_is_missing_is_a_problem(without):
    without("rouge")
    result = call("doctor", "--json")
    check = state_of(result, "packages")
    assert (result.exit_code, check["state"]) == (1, "problem")
    assert check["facts"] == {"wrong": {"rouge==1.0.1": "not installed"}} and "'rouge==1.0.1'" in check["remedy"]


@pytest.mark.parametrize(("extra", "package"), [("gguf", "gguf"), ("ray", "ray"), ("lm-eval", "lm-eval")])
def test_an_extra_that_is_missing_names_its_command(without, extra, package):
    without(package)
    found = software.extra(extra)
    assert found.state is State.ABSENT and f"python -m pip install 'cokv[{extra}]'" in found.remedy


def test_every_extra_for_users_is_looked_at():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(software.EXTRAS) == set(extras) - {"test", "docs", "dev"}


def test_the_versions_called_tested_are_those_of_the_tests():
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {name: pins[name] for name in software.PINNED} == software.PINNED


def test_an_installed_package_states_the_same_needs(monkeypatch, tmp_path):
    needs = ["torch>=2.10", "numpy>=2.0", 'gguf>=0.19; extra == "gguf"', 'ray>=2.40; extra == "ray"']
    monkeypatch.setattr(software, "PYPROJECT", tmp_path / "none")
    monkeypatch.setattr(metadata, "requires", lambda name: needs)
    monkeypatch.setattr(metadata, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    assert [str(need) for need in software.requirements()] == ["torch>=2.10", "numpy>=2.0"]
    assert [need.name for need in software.requirements("gguf")] == ["gguf"]


def test_without_torch_the_module_still_answers(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so is missing')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run([sys.executable, "-m", "suite.doctor"], env=environment, capture_output=True, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr, ended.stderr
    lines = ended.stdout.splitlines()
    assert any(re.search(r"torch +problem .*libtorch_cpu", line) for line in lines)
    assert any(re.search(r"python +ok ", line) for line in lines) and any("tex" in line for line in lines)


def test_the_token_is_never_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("HF_ENDPOINT", f"https://user:{SECRET}@mirror.example")
    for arguments in ((), ("--json",)):
        result = call("doctor", *arguments)
        assert SECRET not in result.output and "mirror.example" in result.output
    assert state_of(call("doctor", "--json"), "hub token")["facts"] == {"present": True}


def test_the_hub_is_not_asked_when_it_is_switched_off(monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: pytest.fail("a request was sent"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = surroundings.hub()
    assert found.state is State.ABSENT and found.remedy == "unset HF_HUB_OFFLINE"
    assert found.facts == {"reachable": None, "offline": ["HF_HUB_OFFLINE"]}


def test_a_hub_that_refuses_is_one_that_answers(monkeypatch):
    def forbidden(request: urllib.request.Request, timeout: float) -> Any:
        raise urllib.error.HTTPError(request.full_url, 403, "Forbidden", None, None)  # type: ignore[arg-type]

    monkeypatch.setattr(urllib.request, "urlopen", forbidden)
    assert surroundings.hub().state is State.OK


def test_programs_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for find in (surroundings.tex, surroundings.browser):
        found = find()
        assert found.state is State.ABSENT and found.remedy.startswith("apt-get install ")
    monkeypatch.delenv("COKV_TEST_DATA", raising=False)
    assert "COKV_TEST_DATA" in surroundings.test_data().detail


def test_busy_cpus_are_a_warning(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 3.0, 3.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert hardware.cpus().state is State.WARNING and hardware.cpus().remedy == "export OMP_NUM_THREADS=1"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert hardware.cpus().state is State.OK


def test_a_full_disk_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    found = hardware.disk(tmp_path / "new" / "folder", 10**9, "name another")
    assert found.state is State.PROBLEM and "1.00 GB needed" in found.detail and "name another" in found.remedy


def test_a_gpu_that_only_the_driver_sees_is_a_warning(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("cokv.probes.machine", lambda: {"gpus": [{"name": "NVIDIA H100"}]})
    found = hardware.gpus()
    assert found.state is State.WARNING and "NVIDIA H100" in found.detail and "pip install" in found.remedy


@pytest.fixture
def one_gpu(monkeypatch):
    """torch as on a machine with one GPU, half of whose memory is in use."""
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 10**9, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (40 * 10**9, 80 * 10**9))


def test_a_gpu_is_named_with_its_memory_and_capability(one_gpu):
    found = hardware.gpus()
    assert found.state is State.OK and found.detail == "cuda:0: NVIDIA H100, 40 of 80 GB free, capability 9.0"
    assert [device["free_bytes"] for device in found.facts["devices"]] == [40 * 10**9]


@pytest.mark.parametrize("energy", [True, False])
def test_readings_that_a_gpu_lacks_are_named(monkeypatch, one_gpu, energy):
    readings = {"cuda_peak_bytes": 1, "device_used_bytes": 2} | ({"energy_joules": 0.5} if energy else {})
    measured = contextlib.nullcontext(SimpleNamespace(result=readings))
    monkeypatch.setattr("cokv.probes.measure", lambda device: measured)
    found = hardware.gpu_measurements()
    assert found.state is (State.OK if energy else State.WARNING)
    assert found.facts["readings"] == {"peak memory": True, "device memory": True, "energy": energy}
    assert energy or "not energy" in found.detail


@pytest.fixture
def experiment(tmp_path):
    def written(*changes: tuple[str, str]) -> Path:
        text = GOOD
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "small.toml").write_text(text)
        return tmp_path / "small.toml"

    return written


def of_model(name: str, more: str = "") -> tuple[str, str]:
    return "[ruler]", f'[model]\nname = "{name}"\n{more}\n[ruler]'


def test_an_experiment_of_the_embedded_model_fits(experiment):
    found = fit(experiment(), LARGE)
    assert found.state is State.OK and found.facts["fits"] and found.facts["needs"] == []
    assert found.facts["weights_bytes"] > 1_000_000


def test_too_little_memory_is_named(experiment):
    found = fit(experiment(), Machine(memory=1_000_000, hub=True, token=True))
    assert not found.facts["fits"] and "GB of memory" in found.detail


def test_a_known_model_that_is_not_here_is_fetched_where_the_extra_is(monkeypatch, experiment, without, tmp_path):
    monkeypatch.setenv("COKV_CACHE", str(tmp_path / "cache"))
    file = experiment(of_model("smollm2-135m"))
    found = fit(file, LARGE)
    assert (
        found.facts["fits"]
        and "fetches the weights of smollm2-135m, 98 MB" in found.detail
        and "cokv model fetch smollm2-135m" in found.remedy
    )
    without("gguf")
    found = fit(file, LARGE)
    assert not found.facts["fits"] and "'cokv[gguf]'" in found.remedy


@pytest.fixture
def hub_model() -> Any:
    """The first model of the table of hub models, with its revision."""
    return next(iter(hub_models().values()))


@pytest.mark.parametrize("hub", [True, False])
def test_a_hub_model_that_is_not_here_is_fetched_where_the_hub_answers(experiment, hub_model, hub):
    file = experiment(of_model(hub_model.name, f'revision = "{hub_model.revision}"'))
    found = fit(file, Machine(memory=10**12, hub=hub, token=True))
    (need,) = [need for need in found.facts["needs"] if need["remedy"].startswith("hf download")]
    assert need["blocks"] is not hub and found.facts["weights_bytes"] == 4 * hub_model.parameters
    assert found.facts["hours"] > 0 and "hours on" in found.detail


def test_a_gated_model_needs_a_token(monkeypatch, experiment, hub_model):
    gated = {hub_model.name: dataclasses.replace(hub_model, gated=True)}
    monkeypatch.setattr("suite.known.models.hub_models", lambda: gated)
    monkeypatch.setattr("suite.run.requirements.hub_models", lambda: gated)
    file = experiment(of_model(hub_model.name, f'revision = "{hub_model.revision}"'))
    for token in (True, False):
        found = fit(file, Machine(memory=10**12, hub=True, token=token))
        (need,) = [need for need in found.facts["needs"] if need["remedy"].startswith("hf download")]
        assert need["blocks"] is not token


def test_a_gpu_experiment_needs_a_gpu(monkeypatch, experiment, hub_model):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file = experiment(of_model(hub_model.name, f'revision = "{hub_model.revision}"\ndevice = "cuda"'))
    found = fit(file, LARGE)
    assert not found.facts["fits"] and "a CUDA GPU" in found.detail


def test_missing_texts_and_templates_come_with_the_command_that_fetches_them(experiment, tmp_path):
    found = fit(experiment(("[ruler]", f'[ruler]\nessays = "{tmp_path / "none"}"')), LARGE)
    assert not found.facts["fits"] and str(tmp_path / "none") in found.detail
    longbench = f'[longbench]\ntasks = ["qasper"]\ntemplates = "{tmp_path}"\ndata = "{tmp_path / "data"}"\n[ruler]'
    found = fit(experiment(("[ruler]", longbench)), LARGE)
    assert "curl -fsSL" in found.remedy and f"LongBench: {tmp_path / 'data'}" in found.detail


def test_an_experiment_file_with_an_error_is_one_line(experiment):
    found = fit(experiment(('"snapkv"', '"snapvk"')), LARGE)
    assert not found.facts["fits"] and "did you mean snapkv" in found.detail


def test_nothing_is_said_of_a_default_that_could_not_be_looked_at(monkeypatch):
    def fail(*args: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr("suite.doctor.experiments.fit", fail)
    result = call("doctor", "--json")
    assert result.exit_code == 1 and not json.loads(result.stdout)["can_run_default"]
    assert state_of(result, DEFAULT)["state"] == "failed"


def test_no_file_is_opened_for_writing(monkeypatch):
    real = builtins.open

    def reading_only(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        assert not set(mode) & set("wax+") or str(file).startswith("/dev/"), f"{file} was opened to write"
        return real(file, mode, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", reading_only)
    report = diagnosis.diagnose(few_experiments(), DEFAULT).as_json()
    assert not [check for check in report["checks"] if "opened to write" in check["detail"]]


def test_every_attention_backend_has_a_line_and_those_that_are_missing_a_reason(monkeypatch):
    from cokv.cache.attention.choose import MODULES

    found = {check.name: look(check) for check in attention.checks()}
    assert tuple(MODULES) == attention.BACKENDS
    assert found["chosen"].facts["chosen"]["cpu"].keys() == {"float32", "bfloat16"}
    assert "cpu: float32 by " in found["chosen"].detail
    assert "cpu float32" in found["reference"].facts["serves"] and "cpu bfloat16" in found["buckets"].facts["serves"]
    for name in {"varlen", "flash", "flashinfer"} & set(found):
        if not torch.cuda.is_available():
            assert found[name].state is State.ABSENT and found[name].detail and not found[name].remedy, name
    for device, dtypes in found["chosen"].facts["chosen"].items():
        for dtype, name in dtypes.items():
            assert f"{device} {dtype}" in found[name].facts["serves"], "what is chosen serves"


def test_a_backend_without_its_compiler_is_absent_and_another_is_chosen(monkeypatch):
    from cokv.cache.attention import choose

    no_compiler = lambda name: "no C compiler" if name == "compiled" else None  # noqa: E731
    monkeypatch.setattr(choose, "missing", no_compiler)
    choose.choose.cache_clear()
    found = {check.name: look(check) for check in attention.checks()}
    choose.choose.cache_clear()
    assert found["compiled"].state is State.ABSENT and found["compiled"].detail.startswith("no C compiler")
    assert found["compiled"].remedy == attention.COMPILER
    assert "compiled" not in found["chosen"].facts["chosen"]["cpu"].values()
