"""A tiny random instance of every causal language model class of the installed transformers, on the CPU in float32.

One recipe for all: a table of sizes by configuration field (model_sizes.py), of which each class gets those fields that
it has. Weights are drawn widely, so that greedy decoding varies.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import transformers
from model_sizes import FIRST_SPECIAL_ID, HEADS, LAYERS, OWN, SIZES, VARIANTS
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LARGEST = 5 << 20  # bytes of weights

# Classes that are not causal language models by name, but generate text: images with text, and encoder-decoders.
OTHERS = (
    "AriaForConditionalGeneration",
    "AyaVisionForConditionalGeneration",
    "Cohere2VisionForConditionalGeneration",
    "CohereCompassForConditionalGeneration",
    "Cosmos3OmniForConditionalGeneration",
    "DeepseekVLForConditionalGeneration",
    "DeepseekVLHybridForConditionalGeneration",
    "Exaone4_5_ForConditionalGeneration",
    "Glm46VForConditionalGeneration",
    "Glm4vForConditionalGeneration",
    "Glm4vMoeForConditionalGeneration",
    "GlmOcrForConditionalGeneration",
    "GraniteDoclingForConditionalGeneration",
    "HyperCLOVAXVisionV2ForConditionalGeneration",
    "Idefics2ForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "Kimi_K25ForConditionalGeneration",
    "Lfm2VlForConditionalGeneration",
    "Lfm3VlForConditionalGeneration",
    "LightOnOcrForConditionalGeneration",
    "Llama4ForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "LlavaNextVideoForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "MiniCPMOcrForConditionalGeneration",
    "MiniCPMV4_6ForConditionalGeneration",
    "MiniCPMV4_7ForConditionalGeneration",
    "MiniMaxM3SparseForConditionalGeneration",
    "Mistral3ForConditionalGeneration",
    "Mistral4ForCausalLM",
    "MistralLarge4ForConditionalGeneration",
    "MllamaForConditionalGeneration",
    "MuseGlimmerForConditionalGeneration",
    "Ovis2ForConditionalGeneration",
    "PaddleOCRVLForConditionalGeneration",
    "PaliGemmaForConditionalGeneration",
    "QianfanOCRForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "Qwen3VLMoeForConditionalGeneration",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
    "Qwen4ExpForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
    "Step3p7ForConditionalGeneration",
    "VideoLlama3ForConditionalGeneration",
    "VideoLlavaForConditionalGeneration",
    "VipLlavaForConditionalGeneration",
    "BartForConditionalGeneration",
    "T5ForConditionalGeneration",
)

UNBUILDABLE = {
    "BltForCausalLM": "its own generate fails: DynamicCache(config) needs num_hidden_layers, which BltConfig lacks",
    "Gemma3nForConditionalGeneration": "its vision tower needs the package timm",
    "Gemma4AssistantForCausalLM": "has no keys of its own: its forward needs those of the model that it assists",
    "Gemma4UnifiedAssistantForCausalLM": "has no keys of its own: its forward needs those of the model that it assists",
    "MusicgenForCausalLM": "its own generate makes audio codebooks, and fails on a prompt of text",
    "MusicgenMelodyForCausalLM": "its own generate makes audio codebooks, and no token of text",
}

# Models that a compressed cache need not work with, and why. All others must work: to refuse one of them is a fault.
MAY_BE_REFUSED = {
    "attention not through transformers' attention interface": """BigBirdForCausalLM BloomForCausalLM
        CodeGenForCausalLM CpmAntForCausalLM FalconForCausalLM FalconForCausalLM-alibi GPTJForCausalLM
        GPTNeoForCausalLM GPTNeoXJapaneseForCausalLM GitForCausalLM MegatronBertForCausalLM MptForCausalLM
        MvpForCausalLM OpenAIGPTLMHeadModel ProphetNetForCausalLM ReformerModelWithLMHead RemBertForCausalLM
        RoFormerForCausalLM TrOCRForCausalLM XGLMForCausalLM XLMWithLMHeadModel XLNetLMHeadModel""",
    "recurrent or convolutional layers": """BailingHybridForCausalLM BambaForCausalLM FalconH1ForCausalLM
        FalconMambaForCausalLM GraniteMoeHybridForCausalLM JambaForCausalLM KimiLinearForCausalLM Lfm2ForCausalLM
        Lfm2MoeForCausalLM Lfm2VlForConditionalGeneration Lfm3ForCausalLM Lfm3VlForConditionalGeneration
        Mamba2ForCausalLM MambaForCausalLM MiniCPMOcrForConditionalGeneration MiniCPMV4_6ForConditionalGeneration
        MiniCPMV4_7ForConditionalGeneration MiniMaxForCausalLM NemotronHForCausalLM OlmoHybridForCausalLM
        Qwen3NextForCausalLM Qwen3_5ForCausalLM Qwen3_5ForConditionalGeneration Qwen3_5MoeForCausalLM
        Qwen3_5MoeForConditionalGeneration RecurrentGemmaForCausalLM RwkvForCausalLM Zamba2ForCausalLM
        ZambaForCausalLM ZayaForCausalLM xLSTMForCausalLM""",
    "sparse attention by an index": """AXK2ForCausalLM DeepseekV32ForCausalLM DeepseekV4ForCausalLM
        Dots3NoteForCausalLM GlmMoeDsaForCausalLM HYV4ForCausalLM MiniMaxM3SparseForConditionalGeneration
        MiniMaxM3VLForCausalLM MistralLarge4ForConditionalGeneration Qwen4ExpForCausalLM
        Qwen4ExpForConditionalGeneration""",
    "latent keys, expanded after the cache": """AXK1ForCausalLM DeepseekV2ForCausalLM DeepseekV3ForCausalLM
        DeepseekV3ForCausalLM-full_rank_queries Glm4MoeLiteForCausalLM Kimi_K25ForConditionalGeneration
        LongcatFlashForCausalLM MiniCPM3ForCausalLM Mistral4ForCausalLM YoutuForCausalLM""",
    "keys repeated after the cache": "JetMoeForCausalLM",
    "two attention calls on one update": "DiffLlamaForCausalLM",
    "keys of another layer": "Gemma3nForCausalLM",
    "a position bias": "Inkling2ForCausalLM InklingForCausalLM",
    "values of another width than keys": "MiMoV2FlashForCausalLM",
    "a mask of its own": "DogeForCausalLM",
    "heads of several widths": """Gemma4ForCausalLM Gemma4ForConditionalGeneration Gemma4UnifiedForCausalLM
        Gemma4UnifiedForConditionalGeneration""",
    "chunked attention": "Llama4ForCausalLM Llama4ForConditionalGeneration",
    "sliding-window layers alone": "MistralForCausalLM-sliding_only MoshiForCausalLM",
    "cross-attention": """BartForConditionalGeneration MllamaForCausalLM MllamaForConditionalGeneration
        T5ForConditionalGeneration""",
}
REFUSABLE = {name for names in MAY_BE_REFUSED.values() for name in names.split()}


def tiny_models() -> dict[str, Callable[[], PreTrainedModel]]:
    """Builders by class name, and by class-variant where a setting decides."""
    classes = sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values(), *OTHERS} - set(UNBUILDABLE))
    builders: dict[str, Callable[[], PreTrainedModel]] = {
        name: partial(tiny_model, name) for name in classes if hasattr(transformers, name)
    }
    for name, (model_class, config_class, changes) in VARIANTS.items():
        if model_class in builders:
            builders[name] = partial(tiny_model, model_class, {config_class: changes})
    return builders


def tiny_model(
    class_name: str, changes: Mapping[str, Mapping[str, Any]] | None = None, seed: int = 0
) -> PreTrainedModel:
    """The smallest instance of a class that still has several heads, layers and kinds of layers.

    changes: settings by configuration class, over those of the tables.
    """
    model_class = getattr(transformers, class_name)
    config = tiny_config(model_class.config_class, changes or {})
    with torch.device("meta"):
        weights = sum(parameter.numel() * 4 for parameter in model_class(config).parameters())
    assert weights <= LARGEST, f"{class_name} would take {weights / 2**20:.0f} MiB"
    before = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = model_class(config).eval().requires_grad_(False)
    torch.random.set_rng_state(before)
    model.generation_config.update(pad_token_id=0, bos_token_id=1, decoder_start_token_id=1, eos_token_id=None)
    return model


def tiny_config(config_class: Any, changes: Mapping[str, Mapping[str, Any]]) -> Any:
    """The sizes of the table for the fields that the class has, and so for the configurations inside it.

    Where its default has several kinds of layers they alternate.
    """
    fields = _fields(config_class)
    default = config_class()
    settings = {field: size for field, size in SIZES.items() if field in fields}
    if "kv_lora_rank" in fields:  # multi-head latent attention has no groups
        settings["num_key_value_heads"] = HEADS
    for field in ("sliding_window", "sliding_window_size"):
        if field in fields and fields[field] is None:
            del settings[field]
    special = [field for field in fields if field.endswith(("_token_id", "_token_index")) and field not in SIZES]
    settings |= {field: FIRST_SPECIAL_ID + place for place, field in enumerate(special)}
    for field in getattr(config_class, "sub_configs", {}):
        if getattr(default, field, None) is not None:
            settings[field] = tiny_config(type(getattr(default, field)), changes).to_dict()
    kinds = list(dict.fromkeys(getattr(default, "layer_types", None) or ()))
    if "layer_types" in fields and len(kinds) > 1:
        settings["layer_types"] = (kinds * LAYERS)[:LAYERS]
    name = config_class.__name__
    return config_class(**copy.deepcopy({**settings, **OWN.get(name, {}), **changes.get(name, {})}))


def _fields(config_class: type) -> dict[str, Any]:
    if dataclasses.is_dataclass(config_class):
        return {field.name: field.default for field in dataclasses.fields(config_class)}
    parameters = inspect.signature(config_class.__init__).parameters.values()  # type: ignore[misc]  # before 5.3
    return {p.name: p.default for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"}
