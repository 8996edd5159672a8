#!/usr/bin/env bash
# What needs a GPU, the most valuable first, or only the named steps; each writes its result before the next begins, and
# ends at its time limit. Without names: the first five, 12 minutes on one H100.
#   tests       3  those marked gpu
#   decode      4  a step at batch 1 and 32, 8k and 32k tokens, Llama-3-8B shape, by every attention backend there is:
#                  against the bound, DynamicCache, StaticCache compiled, our full cache
#   figure      2  the paper's memory and latency figure: a prompt of 28k tokens, budgets 128 to 2048
#   game        2  the head game of that shape at 8k tokens, against the naive loop; the paper's protocol projected
#   attention   1  attention alone, every backend, against reading K and V once
#   prefill     2  what compressing costs while the prompt is read, 8k tokens
#   probes      1  what sampling NVML costs
#   experiment     the embedded experiment on RULER, few samples
#   smollm2        a real model: the default experiment, then the checks of CoKV's claims, in bfloat16. MODEL names it (a
#                  .gguf file, a folder, a known model), PARTS the pieces of a .gguf file that came in several
# Usage: bash benchmarks/gpu.sh [STEP ...]
# OUT: folder, default benchmarks/results/gpu. PYTHON: with this package; default python3.
# DEVICE=cpu SHAPE=tiny: the same steps on the CPU with a tiny model, to see that the script runs.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results/gpu} python=${PYTHON:-python3} device=${DEVICE:-cuda} shape=${SHAPE:-llama-3-8b}
known="tests decode figure game attention prefill probes experiment smollm2"
steps=" ${*:-tests decode figure game attention} "
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
for step in $steps; do
    [[ " $known " == *" $step "* ]] || { echo "unknown step '$step'; expected one of: $known" >&2; exit 2; }
done
if [[ $device == cuda ]]; then
    "$python" -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name(), torch.__version__)' || exit 1
fi
dtype=bfloat16
prompts=(8192 32768) batches=(1 32) figure=28672 budgets=(128 256 512 1024 2048) layers=32
rounds=(--rounds 5 --block 4) turns=(--rounds 15)
if [[ $shape == tiny ]]; then
    dtype=float32 prompts=(140 200) batches=(1 2) figure=300 budgets=(64 128) layers=3
    rounds=(--rounds 1 --block 1) turns=(--rounds 1 --block 1 --case 300 64 1)
fi
model=(--shape "$shape" --device "$device" --dtype "$dtype")
failed=0
run() { # limit in seconds, name of the step, its command; a failing one does not stop the next
    local limit=$1 name=$2 status=0
    shift 2
    [[ $steps == *" $name "* ]] || return 0
    echo "== $name: ${*:2}"
    timeout "$limit" "$@" || status=$?
    ((status == 0)) || { echo "== $name ended with $status (124: after $limit s; what it had measured is written)"; failed=1; }
}
run 240 tests "$python" -m pytest -q -m gpu tests
run 150 decode "$python" benchmarks/decode.py "${model[@]}" "${rounds[@]}" --prompt "${prompts[0]}" --batch "${batches[@]}" \
    --budget "${budgets[0]}" --methods even uneven h2o --attention all --static --compile-seconds 60 --out "$out/decode_8k.json"
run 120 decode "$python" benchmarks/decode.py "${model[@]}" "${rounds[@]}" --prompt "${prompts[1]}" --batch "${batches[@]}" \
    --budget "${budgets[0]}" --methods even uneven --out "$out/decode_32k.json"
run 100 figure "$python" benchmarks/decode.py "${model[@]}" "${rounds[@]}" --prompt "$figure" --batch 1 --budget "${budgets[@]}" \
    --methods uneven --out "$out/figure_latency.json"
run 60 figure "$python" benchmarks/memory.py "${model[@]}" --layers "$layers" --prompt "$figure" --budget "${budgets[0]}" \
    --methods full snapkv adakv cokv --in-process --out "$out/figure_memory.json"
game=(--utility metric --repeats 1)
[[ $shape == tiny ]] && game+=(--new-tokens 4 --coalitions 3 --sample 2)
run 150 game "$python" benchmarks/game.py "${model[@]}" --prompt "${prompts[0]}" "${game[@]}" --out "$out/game_$shape.json"
run 60 attention "$python" benchmarks/ragged_attention.py --device "$device" --dtype "$dtype" "${turns[@]}" \
    --out "$out/ragged_attention.json"
run 180 prefill "$python" benchmarks/prefill.py "${model[@]}" --layers "$layers" --prompt "${prompts[0]}" --rounds 2 \
    --budget "${budgets[0]}" --methods snapkv adakv pyramidkv cokv tova h2o kivi4 --out "$out/prefill.json"
run 60 probes "$python" benchmarks/probe_cost.py "${model[@]}" --rounds 5 --seconds 0.5 --prompt 128 --out "$out/probe_cost.json"
if [[ $steps == *" experiment "* ]]; then
    sed "s/^device = \"cpu\"/device = \"$device\"/; /^\[longbench_mini\]/,/^\[protocol\]/{/^\[protocol\]/!d}" experiments/embedded.toml >"$out/embedded_$device.toml"
    run 600 experiment "$python" -m suite.cli reproduce --experiment "$out/embedded_$device.toml" --limit 1 --runs "$out/runs"
fi
if [[ $steps == *" smollm2 "* ]]; then
    named=${MODEL:-smollm2-135m}
    if [ -n "${PARTS:-}" ]; then
        named=$out/model.gguf
        cat $PARTS >"$named" # unquoted: several paths
    fi
    for name in smollm2 cokv_checks; do
        run 1200 smollm2 "$python" -m suite.cli reproduce --experiment "experiments/$name.toml" --model "$named" --device "$device" --dtype bfloat16 --runs "$out/runs"
    done
fi
exit "$failed"
