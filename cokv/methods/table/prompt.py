"""Methods that select once, by the prompt's attention, keys or reconstruction; every answer token is kept."""

from __future__ import annotations

from cokv.methods.allocators.ada import Ada
from cokv.methods.allocators.global_top_k import GlobalTopK
from cokv.methods.allocators.pyramid import Pyramid
from cokv.methods.allocators.uniform import Uniform
from cokv.methods.method import Method
from cokv.methods.scorers.critical import Critical
from cokv.methods.scorers.expected_attention import ExpectedAttention
from cokv.methods.scorers.key_difference import KeyDifference
from cokv.methods.scorers.key_norm import KeyNorm
from cokv.methods.scorers.kvzip import KVzipScorer
from cokv.methods.scorers.window_attention import WindowAttention
from cokv.methods.table.owners import WINDOW

PROMPT: tuple[Method, ...] = (
    Method(
        name="snapkv",
        title="SnapKV",
        paper="https://arxiv.org/abs/2404.14469",
        code="https://github.com/FasterDecoding/SnapKV",
        scorer=WindowAttention(),
        allocator=Uniform(),
        note="window attention, the same budget for every head",
        owners=WINDOW,
        presets={
            "unpooled": {
                "scorer": WindowAttention(kernel_size=1),
                "ours": True,
                "note": "an ablation of this project's: SnapKV without its pooling",
            },
            "official": {
                "scorer": WindowAttention(kernel_size=5, pooling="avg", reduce="per_query_head", score_dtype="model"),
                "note": (
                    "snapkv/monkeypatch/snapkv_utils.py: average pooling; keeps a cache per query "
                    "head, so only a model whose query heads share no KV head can run it "
                    "(reduce='group_mean' elsewhere)"
                ),
            },
        },
    ),
    Method(
        name="pyramidkv",
        title="PyramidKV",
        paper="https://arxiv.org/abs/2406.02069",
        code="https://github.com/Zefan-Cai/KVCache-Factory",
        scorer=WindowAttention(window_size=8),
        allocator=Pyramid(),
        note=(
            "budgets fall from the bottom layer to the top, total kept; the same in every layer where the prompt is "
            "shorter than twice the budget beyond the window"
        ),
        owners=WINDOW,
        coincides={"snapkv": "at the same window, where the prompt is shorter than twice the budget beyond it"},
        presets={
            "official": {
                "scorer": WindowAttention(window_size=8, score_dtype="model"),
                "allocator": Pyramid(exact=False),
                "note": (
                    "pyramidkv/pyramidkv_utils.py with run_longbench.py's settings, in its kv_head "
                    "layout, mean over the group; the floored step overspends the total"
                ),
            },
        },
    ),
    Method(
        name="adakv",
        title="AdaKV",
        paper="https://arxiv.org/abs/2407.11550",
        code="https://github.com/FFY0/AdaKV",
        scorer=WindowAttention(),
        allocator=Ada(),
        note="budgets follow the best-scored tokens of each layer, total kept",
        owners=WINDOW,
        presets={
            "official": {
                "scorer": WindowAttention(score_dtype="model"),
                "allocator": Ada(exact=False),
                "note": (
                    "adaptive_snapkv/monkeypatch/snapkv_utils.py with gqa_support, floor_alpha 0.2, "
                    "scores not normalized; each head is rounded alone, so a layer may miss its total"
                ),
            },
        },
    ),
    Method(
        name="criticalkv",
        title="CriticalKV",
        paper="https://arxiv.org/abs/2502.03805",
        code="https://github.com/NVIDIA/kvpress",
        scorer=Critical(),
        allocator=Uniform(),
        note=(
            "half of the slots beyond the window by window attention, half by attention times what "
            "the value adds to the output"
        ),
        owners=WINDOW,
        presets={
            "kvpress": {
                "scorer": Critical(window_size=64, kernel_size=5, pooling="avg", window_in_first_stage=True),
                "note": (
                    "kvpress/presses/criticalkv_press.py over its SnapKVPress: the window counts "
                    "among the first stage's half"
                ),
            },
        },
    ),
    Method(
        name="kvzip",
        title="KVzip",
        paper="https://arxiv.org/abs/2505.23416",
        code="https://github.com/snu-mllab/KVzip",
        scorer=KVzipScorer(),
        allocator=GlobalTopK(),
        note=(
            "what is attended while the prompt is repeated; the best-scored tokens of the whole "
            "model; the instruction is read after the prompt, so the prompt, the instruction and a "
            "chunk must fit the context"
        ),
    ),
    Method(
        name="knorm",
        title="K-norm",
        paper="https://arxiv.org/abs/2406.11430",
        code="https://github.com/alessiodevoto/l2compress",
        scorer=KeyNorm(),
        allocator=Uniform(),
        note=(
            "short keys stay; no official preset: the released code leaves the first two layers whole, beyond any total"
        ),
    ),
    Method(
        name="keydiff",
        title="KeyDiff",
        paper="https://arxiv.org/abs/2504.15364",
        scorer=KeyDifference(),
        allocator=Uniform(),
        note="keys unlike the mean key stay; read at once, not in blocks",
    ),
    Method(
        name="expectedattention",
        title="ExpectedAttention",
        paper="https://arxiv.org/abs/2510.00636",
        code="https://github.com/NVIDIA/kvpress",
        scorer=ExpectedAttention(),
        allocator=Uniform(),
        note=(
            "attention expected of the next 512 queries, times the length of the value; "
            "kvpress/presses/expected_attention_press.py does the same"
        ),
    ),
)
