#!/usr/bin/env bash
# The cache's benchmarks on this CPU, the most valuable first, or only the named parts. Each writes its record and page
# after every figure, before the next begins, and ends at its time limit. Expected minutes on two free cores, 41 in all:
#   decode     8  8k and 32k tokens, batch 1 and 8: bound, DynamicCache, ours in full, even, uneven, four bits
#   rules      2  what happens while decoding, in SnapKV's time: 2k tokens, batch 1 and 32 rows
#   peers     10  kvpress beside ours, batch 1, 8, 32 (in tox's environment `kvpress`, or PEERS_PYTHON; else left out)
#   attention  2  attention alone, every backend, against reading K and V once
#   prefill    8  every method's overhead while the prompt is read, 2k tokens; of methods that need a window, 8k tokens
#   memory     6  bytes held, and the peak of the prefill
#   scaling    2  growth with context, rows and players
#   soak       2  100,000 steps of StreamingLLM, 20,000 of H2O; 2,000 prompts on one cache
#   probes     1  what sampling costs
# Usage: bash benchmarks/cpu.sh [PART ...]
# OUT: folder, default benchmarks/results. SHAPE=tiny: everything on a tiny model, seconds a part, to see that it runs.
# PYTHON: with this package; default python3. CLOCK=cpu: CPU time, where other work shares the cores.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-benchmarks/results} python=${PYTHON:-python3} clock=${CLOCK:-wall} shape=${SHAPE:-100m}
known="decode rules peers attention prefill memory scaling soak probes"
parts=" ${*:-$known} "
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # figures of one thread compare between machines
for part in $parts; do
    [[ " $known " == *" $part "* ]] || { echo "unknown part '$part'; expected one of: $known" >&2; exit 2; }
done
failed=0
part() { # minutes, name, then arguments of the benchmark that it is named by, or BENCHMARK=other
    local minutes=$1 name=$2 run=${PART_PYTHON:-$python} file=${BENCHMARK:-$2}
    shift 2
    [[ $parts == *" $name "* ]] || return 0
    echo "== $name (at most $minutes minutes)"
    local common=(--clock "$clock")
    [[ $file == soak || $file == ragged_attention ]] || common+=(--shape "$shape")
    timeout "${minutes}m" "$run" "benchmarks/$file.py" "${common[@]}" "$@" --out "$out/${RESULT:-$file}.json" || {
        echo "== $name ended with $? (124: its time was over; what it had measured is written)"
        failed=1
    }
}
if [[ $shape == tiny ]]; then
    small=(--prompt 140 --budget 64 --rounds 1)
    part 1 decode "${small[@]}" --block 1 --batch 1 2
    BENCHMARK=decode RESULT=rules part 1 rules "${small[@]}" --block 1 --methods h2o cake
    attention=(--rounds 1 --block 1 --case 300 64 1) prefill=("${small[@]}" --layers 2)
    memory=(--prompt 140 --budget 64 --layers 2 --no-processes --methods snapkv) soak=(--steps 100 --turns 4)
    scaling=(--layers 2 --context 80 160 --rows 1 2 --kv-heads 1 2 --budget 70 --rounds 1 --block 1)
    peers=(--prompt 200 --budget 70 --batch 1 2 --rounds 1 --prefill-rounds 1)
    probes=(--prompt 40 --rounds 1 --seconds 0.02)
else
    part 8 decode --prompt 8192 32768 --batch 1 8 --rounds 7 --block 3 --drawn --methods even uneven kivi4
    BENCHMARK=decode RESULT=rules part 8 rules --prompt 2048 --batch 1 32 --rounds 5 --block 2 --keep-gib 6 \
        --methods h2o tova scissorhands cake arkvale kivi4
    # The attention of random weights is too even for FastGen at 128 slots: its threshold would be 0.
    BENCHMARK=decode RESULT=rules_fastgen part 3 rules --prompt 2048 --budget 1024 --batch 1 --rounds 5 --methods fastgen
    attention=() prefill=(--prompt 2048 --rounds 3) memory=(--prompt 4096 --methods full streamingllm snapkv adakv cokv kivi4) soak=(--steps 100000 --turns 2000 --methods streamingllm)
    scaling=() peers=(--prompt 2048 --rounds 7 --prefill-rounds 2) probes=()
fi
peers_python=${PEERS_PYTHON:-.tox/kvpress/bin/python}
if [[ $parts == *" peers "* ]] && ! "$peers_python" -c 'import kvpress' 2>/dev/null; then
    echo "== peers left out: no kvpress in $peers_python; tox -e peers makes that environment"
else
    PART_PYTHON=$peers_python part 8 peers "${peers[@]}"
    [[ $shape == tiny ]] || RESULT=peers_8k PART_PYTHON=$peers_python part 8 peers --prompt 8192 --batch 1 8 --rounds 3 --prefill-rounds 1
fi
BENCHMARK=ragged_attention part 3 attention "${attention[@]}"
part 5 prefill "${prefill[@]}"
[[ $shape == tiny ]] || RESULT=prefill_8k part 6 prefill --prompt 8192 --rounds 3 --methods streamingllm tova snapkv adakv
part 8 memory "${memory[@]}"
part 4 scaling "${scaling[@]}"
part 6 soak "${soak[@]}"
[[ $shape == tiny ]] || RESULT=soak_h2o part 4 soak --steps 20000 --turns 100 --methods h2o
BENCHMARK=probe_cost part 2 probes "${probes[@]}"
exit "$failed"
