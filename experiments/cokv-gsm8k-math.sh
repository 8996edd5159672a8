#!/bin/sh
# CoKV on GSM8K and MATH (arXiv 2502.17501's released code, experiments/gsm8k and experiments/math), through lm-evaluation-harness:
#
#   sh experiments/cokv-gsm8k-math.sh [FOLDER]        results of each method in FOLDER, by default runs/cokv-gsm8k-math
#
# It needs `pip install cokv[lm-eval]`, the weights (`hf download Qwen/Qwen3-32B --revision 9216db57...`: 61 GiB) and a GPU of 80 GiB.
# Profiles come from a run of cokv-qwen3-32b, or from the files that CoKV's authors publish:
#
#   COKV_SCORES    head scores: one .safetensors of the run's head_scores/, or the released cc_qwen3_average_size_256.npy
#   HEADKV_SCORES  HeadKV's: of the run's profiles/, or the released Qwen3-32B_retrieval_reasoning_heads.json
#
# Settings of the released scripts: Qwen3-32B in its chat template without thinking, 5 worked examples, answers of at most 256 tokens,
# 128 slots per group, window 8, pooling of 7, HeadKV's beta 1.01. What differs: lm-eval's own wording and answer filters (the released
# code has a prompt of its own and compares the last number), and all test samples (of MATH the released code takes 1000). The paper
# does not state a seed or which samples; no published number of these two sets could be read.
# Other tasks: TASKS="gsm8k" sh ...; fewer samples: LIMIT=8 sh ...

set -eu
OUT=${1:-runs/cokv-gsm8k-math}
MODEL=${MODEL:-Qwen/Qwen3-32B}
REVISION=${REVISION-9216db5781bf21249d130ec9da846c4624c16137} # empty for a local folder
TASKS=${TASKS:-gsm8k,minerva_math}

run() { # NAME MODEL_ARGS
    cokv lm-eval --model cokv \
        --model_args "pretrained=$MODEL${REVISION:+,revision=$REVISION},dtype=bfloat16,enable_thinking=False,$2" \
        --tasks "$TASKS" --num_fewshot 5 --apply_chat_template --gen_kwargs max_gen_toks=256 \
        ${LIMIT:+--limit "$LIMIT"} --log_samples --output_path "$OUT/$1"
}

window=kv_budget=128,window_size=8,kernel_size=7
run full method=full
run snapkv "method=snapkv,$window"
run pyramidkv "method=pyramidkv,$window"
run adakv "method=adakv,$window"
if [ -n "${HEADKV_SCORES:-}" ]; then
    run headkv_r2 "method=headkv_r2,preset=beta-1.01,$window,profile=$HEADKV_SCORES"
else
    echo "HEADKV_SCORES is not set: HeadKV is left out" >&2
fi
if [ -n "${COKV_SCORES:-}" ]; then
    run cokv "method=cokv,preset=official,kv_budget=128,profile=$COKV_SCORES"
else
    echo "COKV_SCORES is not set: CoKV is left out" >&2
fi
