"""Made-up prefills of toy size, and methods with settings that fit them: what selections are tried on."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cokv.cache.prefill import PrefillLayer
from cokv.methods.allocators.marginal import keep_ratios
from cokv.methods.registry import METHODS, get_method
from cokv.model.observe import LayerView, ModelParts, Replayer
from cokv.profiles.lukv_file import RatioCurves
from cokv.types import HeadScores


class Parts(ModelParts):
    """Stands for a model and a tokenizer: a few special tokens and marks, W_O all ones, plain RoPE."""

    def output_weight(self, layer_idx, num_heads, head_dim):
        return torch.ones(num_heads, head_dim, 3)

    def rotary(self, layer_idx, positions):
        angles = positions[:, None] * torch.tensor([1.0, 0.01, 1.0, 0.01])
        return angles.cos(), angles.sin()

    def special_ids(self):
        return {0}

    def text(self, token):
        return "." if token % 7 == 3 else "word"

    def ids(self, text):
        return [1] * len(text)


class Looks(dict):
    """What observers would have seen, looked up when asked for."""

    def __init__(self, view):
        self.view = view

    def get(self, observer, default=None):
        if isinstance(observer, Replayer):
            (passage,) = observer.passages(self.view.input_ids, self.view.parts)
            t = len(passage.ids)
            keys = self.view.keys
            last = torch.randn(keys.shape[0], t, 4, generator=torch.Generator().manual_seed(1))
            queries = self.view.queries[:, :1] + torch.linspace(-1, 1, t)[None, :, None]
            return (observer.look(queries, torch.cat([keys, last], 1), self.view.scaling, passage),)
        return observer.observe(self.view)


def _prefill(num_layers=3, num_heads=4, num_kv_heads=2, seq_len=48, window=8, seed=0, spread=1.5):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator) * spread  # noqa: E731
    layers = []
    for index in range(num_layers):
        keys, values = draw(num_kv_heads, seq_len, 4), draw(num_kv_heads, seq_len, 4)
        queries = draw(num_heads, seq_len, 4)
        view = LayerView(index, torch.arange(seq_len), queries, keys, values, 0.5, Parts(None))
        held = queries[:, max(seq_len - window, 0) :]
        layers.append(PrefillLayer(index, keys, values, held, 0.5, Looks(view)))
    ids = torch.arange(seq_len)
    return SimpleNamespace(layers=layers, seq_len=seq_len, input_ids=ids, first_logits=torch.zeros(7))


def _profile(num_layers=3, num_kv_heads=2, seed=0):
    return HeadScores(np.random.default_rng(seed).normal(size=(num_layers, num_kv_heads)))


def _profile_for(name, num_layers=3, num_kv_heads=2, seed=0):
    """Of the kind that the method takes."""
    scores = _profile(num_layers, num_kv_heads, seed)
    if name == "lukv":
        importance = np.random.default_rng(seed).exponential(size=(num_layers, num_kv_heads, 40))
        scale = np.linspace(1, 2, num_layers * num_kv_heads).reshape(num_layers, num_kv_heads, 1)
        return RatioCurves(keep_ratios(importance**scale))
    return HeadScores(0.5 + np.abs(scores.values)) if name != "cokv" else scores


FITS = {"kernel_size": 3, "alpha": 1, "local": 3, "recent": 3, "num_sinks": 2, "retrieval_share": 0.01}
FITS["least_threshold"] = 0  # of FastGen's retained attention: any total is feasible


def _small(name, preset="normalized", window=8):
    """The method with settings that fit a toy prompt."""
    fits = {**FITS, "window_size": window, "num_sinks": 4 if name == "streamingllm" else 2}
    known = METHODS[name].with_preset(preset).parameters
    return get_method(name, preset, **{key: value for key, value in fits.items() if key in known})


@pytest.fixture(scope="session")
def prefill():
    return _prefill


@pytest.fixture(scope="session")
def small():
    return _small


@pytest.fixture(scope="session")
def profile():
    return _profile


@pytest.fixture(scope="session")
def profile_for():
    return _profile_for
