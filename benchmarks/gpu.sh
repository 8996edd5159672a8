#!/usr/bin/env bash
# Everything that needs a GPU, in one go: tests marked gpu, attention against its bound, the main job's smoke run on CUDA.
# Usage: bash benchmarks/gpu.sh [OUT]   (results are written to OUT, default benchmarks/results/gpu)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results/gpu}
mkdir -p "$out"
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
python3 -c 'import torch; assert torch.cuda.is_available(), "no CUDA device"; print(torch.cuda.get_device_name(), torch.__version__)'
python3 -m pytest -q -m gpu tests
for dtype in float32 bfloat16; do
    python3 benchmarks/ragged_attention.py --device cuda --dtype "$dtype" --repeats 50 --out "$out/ragged_attention_$dtype.json"
done
sed 's/^device = "cpu"/device = "cuda"/' experiments/embedded.toml >"$out/embedded_cuda.toml"
python3 -m suite.cli reproduce --experiment "$out/embedded_cuda.toml" --limit 4 --runs "$out/runs"
