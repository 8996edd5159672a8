#!/usr/bin/env bash
# Everything that needs a GPU, the most valuable first, or only the named steps; each writes its result before the next:
#   tests       those marked gpu
#   decode      a step at batch 1 and 32, 8k and 32k tokens, Llama-3-8B shape: against DynamicCache and our full cache
#   game        the head game of that shape at 8k tokens, against the naive loop
#   attention   ragged attention against its bound
#   experiment  the main job on RULER, few samples, on CUDA
# Usage: bash benchmarks/gpu.sh [STEP ...]   (results are written to $OUT, default benchmarks/results/gpu)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results/gpu}
steps=" ${*:-tests decode game attention experiment} "
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
for step in $steps; do
    case $step in tests | decode | game | attention | experiment) ;; *) echo "unknown step '$step'; expected tests, decode, game, attention or experiment" >&2; exit 2 ;; esac
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
run tests python3 -m pytest -q -m gpu tests
run decode decode
run game python3 benchmarks/game.py --shape llama-3-8b --device cuda --dtype bfloat16 --prompt 8192 --repeats 1 --out "$out/game_llama-3-8b.json"
run attention attention
run experiment experiment
exit "$failed"
