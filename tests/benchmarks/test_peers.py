"""benchmarks/peers.py at its smallest, where kvpress is installed: tox -e kvpress."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("kvpress")
pytestmark = pytest.mark.peer


def test_both_sides_do_the_same_work_in_the_bytes_they_claim(tmp_path):
    peers = importlib.import_module("peers")
    arguments = ["--shape", "tiny", "--prompt", "200", "--budget", "70", "--batch", "1", "2", "--rounds", "1"]
    record = peers.main([*arguments, "--prefill-rounds", "1", "--clock", "cpu", "--out", str(tmp_path / "peers.json")])
    one, two = record["results"]
    assert one["snapkv_logits_apart"] < 1e-5, "the same tokens stay, so the logits are the same"
    sizes = {name: arm["bytes"]["held"] for name, arm in one["arms"].items()}
    assert sizes["cokv SnapKV"] == sizes["cokv AdaKV"] == sizes["cokv CoKV"] == sizes["kvpress SnapKV"]
    assert sizes["kvpress AdaKV"] == sizes["DynamicCache"], "it masks its tokens and keeps them"
    steps = 2 * 3  # of batch 1 before its row was repeated, three in each of two rounds
    assert two["arms"]["cokv SnapKV"]["bytes"]["held"] == 2 * sizes["cokv SnapKV"] * (71 + steps) // 71


def test_without_equal_multiples_it_says_what_it_expects(capsys):
    peers = importlib.import_module("peers")
    with pytest.raises(SystemExit):
        peers.main(["--batch", "2", "3"])
    assert "expected each a multiple of the one before" in capsys.readouterr().err
