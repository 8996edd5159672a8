"""Methods that choose once, by the prompt's attention, keys or reconstruction; the answer grows on what they kept."""

from __future__ import annotations

from cokv.methods.allocators.ada import Ada
from cokv.methods.allocators.global_top_k import GlobalTopK
from cokv.methods.allocators.pyramid import Pyramid
from cokv.methods.allocators.uniform import Uniform
from cokv.methods.entries import MethodEntry, Preset
from cokv.methods.scorers.critical import Critical
from cokv.methods.scorers.expected_attention import ExpectedAttention
from cokv.methods.scorers.key_difference import KeyDifference
from cokv.methods.scorers.key_norm import KeyNorm
from cokv.methods.scorers.kvzip import KVzipScorer
from cokv.methods.scorers.window_attention import WindowAttention

PROMPT: tuple[MethodEntry, ...] = (
    MethodEntry(
        name="snapkv",
        title="SnapKV",
        paper="https://arxiv.org/abs/2404.14469",
        code="https://github.com/FasterDecoding/SnapKV",
        policy="grow",
        presets={
            "normalized": Preset(WindowAttention(), Uniform(), "window attention, the same budget for every head"),
            "official": Preset(
                WindowAttention(
                    window_size=32, kernel_size=5, pooling="avg", reduce="per_query_head", score_dtype="model"
                ),
                Uniform(),
                "snapkv/monkeypatch/snapkv_utils.py: average pooling; keeps a cache per query head, so only a model "
                "whose query heads share no KV head can run it (reduce='group_mean' elsewhere)",
            ),
        },
    ),
    MethodEntry(
        name="pyramidkv",
        title="PyramidKV",
        paper="https://arxiv.org/abs/2406.02069",
        code="https://github.com/Zefan-Cai/KVCache-Factory",
        policy="grow",
        presets={
            "normalized": Preset(
                WindowAttention(), Pyramid(), "budgets fall from the bottom layer to the top, total kept"
            ),
            "official": Preset(
                WindowAttention(window_size=8, score_dtype="model"),
                Pyramid(exact=False),
                "pyramidkv/pyramidkv_utils.py with run_longbench.py's settings, in its kv_head layout, mean over the "
                "group; the floored step overspends the total",
            ),
        },
    ),
    MethodEntry(
        name="adakv",
        title="AdaKV",
        paper="https://arxiv.org/abs/2407.11550",
        code="https://github.com/FFY0/AdaKV",
        policy="grow",
        presets={
            "normalized": Preset(
                WindowAttention(), Ada(), "budgets follow the best-scored tokens of each layer, total kept"
            ),
            "official": Preset(
                WindowAttention(score_dtype="model"),
                Ada(exact=False),
                "adaptive_snapkv/monkeypatch/snapkv_utils.py with gqa_support, floor_alpha 0.2, scores not normalized; "
                "each head is rounded alone, so a layer may miss its total",
            ),
        },
    ),
    MethodEntry(
        name="criticalkv",
        title="CriticalKV",
        paper="https://arxiv.org/abs/2502.03805",
        code="https://github.com/NVIDIA/kvpress",
        policy="grow",
        presets={
            "normalized": Preset(
                Critical(),
                Uniform(),
                "half of the slots beyond the window by window attention, half by attention times what the value "
                "adds to the output",
            ),
            "kvpress": Preset(
                Critical(window_size=64, kernel_size=5, pooling="avg", window_in_first_stage=True),
                Uniform(),
                "kvpress/presses/criticalkv_press.py over its SnapKVPress: the window counts among the first "
                "stage's half",
            ),
        },
    ),
    MethodEntry(
        name="kvzip",
        title="KVzip",
        paper="https://arxiv.org/abs/2505.23416",
        code="https://github.com/snu-mllab/KVzip",
        policy="grow",
        presets={
            "normalized": Preset(
                KVzipScorer(),
                GlobalTopK(),
                "what is attended while the prompt is repeated; the best-scored tokens of the whole model; the "
                "instruction is read after the prompt, so the prompt, the instruction and a chunk must fit the "
                "context",
            ),
        },
    ),
    MethodEntry(
        name="knorm",
        title="K-norm",
        paper="https://arxiv.org/abs/2406.11430",
        code="https://github.com/alessiodevoto/l2compress",
        policy="grow",
        presets={
            "normalized": Preset(
                KeyNorm(),
                Uniform(),
                "short keys stay; no official preset: the released code leaves the first two layers whole, beyond "
                "any total",
            ),
        },
    ),
    MethodEntry(
        name="keydiff",
        title="KeyDiff",
        paper="https://arxiv.org/abs/2504.15364",
        code="-",
        policy="grow",
        presets={
            "normalized": Preset(
                KeyDifference(), Uniform(), "keys unlike the mean key stay; read at once, not in blocks"
            ),
        },
    ),
    MethodEntry(
        name="expectedattention",
        title="ExpectedAttention",
        paper="https://arxiv.org/abs/2510.00636",
        code="https://github.com/NVIDIA/kvpress",
        policy="grow",
        presets={
            "normalized": Preset(
                ExpectedAttention(),
                Uniform(),
                "attention expected of the next 512 queries, times the length of the value; "
                "kvpress/presses/expected_attention_press.py does the same",
            ),
        },
    ),
)
