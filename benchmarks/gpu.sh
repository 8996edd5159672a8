#!/usr/bin/env bash
# Everything that needs a GPU, the most valuable first, or only the named steps; each writes its result before the next:
#   tests       those marked gpu
#   decode      a step at batch 1 and 32, 8k and 32k tokens, Llama-3-8B shape: against DynamicCache and our full cache
#   game        the head game of that shape at 8k tokens, against the naive loop
#   attention   ragged attention against its bound
#   experiment  the embedded experiment on RULER, few samples, on CUDA
#   smollm2     a real model: the default experiment, then the checks of CoKV's claims, in bfloat16. MODEL names it (a .gguf
#               file, a folder, a known model), PARTS the pieces of a .gguf file that came in several, in their order
# Usage: bash benchmarks/gpu.sh [STEP ...]   (results are written to $OUT, default benchmarks/results/gpu)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results/gpu}
steps=" ${*:-tests smollm2 decode game attention experiment} "
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
for step in $steps; do
    case $step in tests | smollm2 | decode | game | attention | experiment) ;; *) echo "unknown step '$step'; expected tests, smollm2, decode, game, attention or experiment" >&2; exit 2 ;; esac
done
python3 -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name(), torch.__version__)'
failed=0
run() { # one step: its name, then its command; a failing step does not stop the next
    [[ $steps == *" $1 "* ]] || return 0
    local name=$1
    shift
    echo "== $name"
    "$@" || { echo "== $name failed ($?)"; failed=1; }
}
decode() {
    python3 benchmarks/decode.py --shape llama-3-8b --device cuda --dtype bfloat16 --prompt 8192 --batch 1 32 --out "$out/decode_8k.json" &&
        python3 benchmarks/decode.py --shape llama-3-8b --device cuda --dtype bfloat16 --prompt 32768 --batch 1 --methods snapkv adakv --out "$out/decode_32k.json"
}
attention() {
    for dtype in float32 bfloat16; do
        python3 benchmarks/ragged_attention.py --device cuda --dtype "$dtype" --repeats 50 --out "$out/ragged_attention_$dtype.json"
    done
}
experiment() {
    sed 's/^device = "cpu"/device = "cuda"/; /^\[longbench_mini\]/,/^\[protocol\]/{/^\[protocol\]/!d}' experiments/embedded.toml >"$out/embedded_cuda.toml"
    python3 -m suite.cli reproduce --experiment "$out/embedded_cuda.toml" --limit 1 --runs "$out/runs"
}
smollm2() {
    local model=${MODEL:-smollm2-135m} name
    if [ -n "${PARTS:-}" ]; then
        model=$out/model.gguf
        cat $PARTS >"$model" # unquoted: several paths
    fi
    for name in smollm2 cokv_checks; do
        python3 -m suite.cli reproduce --experiment "experiments/$name.toml" --model "$model" --device cuda --dtype bfloat16 --runs "$out/runs" || return
    done
}
run tests python3 -m pytest -q -m gpu tests
run smollm2 smollm2
run decode decode
run game python3 benchmarks/game.py --shape llama-3-8b --device cuda --dtype bfloat16 --prompt 8192 --repeats 1 --out "$out/game_llama-3-8b.json"
run attention attention
run experiment experiment
exit "$failed"
