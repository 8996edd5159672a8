"""`load_profile`: whatever a file holds comes out ready for a method, and a wrong file or name is one line."""

import numpy as np
import pytest

from cokv.model.loading import load_model
from cokv.profiles.load import load_profile, profile_path
from cokv.profiles.lukv_file import RatioCurves
from cokv.profiles.shipped import shipped_profiles
from cokv.types import CokvError, HeadScores


def write_contributions(path, size: int, samples: int = 6) -> None:
    """A released file of 8 players: `samples` coalitions of one size, cyclically shifted."""
    count, total = np.zeros(9), np.zeros(9)
    for draw in range(samples):
        members = [(draw + place) % 8 for place in range(size)]
        count[members] += 1
        total[members] += draw + 1
    outside = np.append(samples - count[:8], 0)
    sums = {"cc_left": total, "cc_right": np.append(-total[:8], 0), "count_left": count, "count_right": outside}
    np.save(path, {**sums, "sampling_count": samples}, allow_pickle=True)


def test_every_shipped_profile_has_a_name_and_fits_the_embedded_model():
    shape = load_model().shape
    assert {"embedded/cokv", "embedded/lukv-normalized"} <= set(shipped_profiles())
    for name in shipped_profiles("embedded"):
        profile = load_profile(name, (shape.num_layers, shape.num_kv_heads))
        assert isinstance(profile, RatioCurves) == name.startswith("embedded/lukv")
        assert profile.provenance["model"]["digest"] == load_model().digest


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(CokvError, match=r"'embedded/none', expected one of embedded/cokv, .*embedded/razorattention"):
        load_profile("embedded/none")
    assert profile_path("embedded/cokv.safetensors").name == "cokv.safetensors", "a file's path stays a path"


def test_several_files_of_sums_and_counts_are_one_profile(tmp_path):
    files = [tmp_path / f"cc_vt_{size}.npy" for size in (4, 6)]
    for file, size in zip(files, (4, 6), strict=True):
        write_contributions(file, size, samples=8)
    both = load_profile(files, (2, 4))
    assert isinstance(both, HeadScores) and [file["size"] for file in both.provenance["files"]] == [4, 6]
    assert not np.array_equal(both.values, load_profile(files[0], (2, 4)).values)


def test_several_files_of_another_kind_are_refused(tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file in files:
        HeadScores(np.ones((2, 4))).save(file)
    with pytest.raises(CokvError, match=r"2 profile files \(.*a.safetensors, .*\), expected one"):
        load_profile(files)
    with pytest.raises(CokvError, match="0 profile files"):
        load_profile([])


def test_the_shape_of_another_model_is_refused_with_the_file(tmp_path):
    file = tmp_path / "a.safetensors"
    HeadScores(np.ones((2, 4))).save(file)
    with pytest.raises(CokvError, match=r"a\.safetensors: head scores have shape"):
        load_profile(file, (2, 8))
    assert load_profile(file) == load_profile(str(file), (2, 4))
