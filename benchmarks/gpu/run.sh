#!/usr/bin/env bash
# All quantizers on random Llamas of 1B and 8B shape, and the kernel of neuron attribution, on one NVIDIA GPU
# and without a network. Writes gpu.json and log_sum_exp.json into benchmarks/results/. Arguments go to run.py, so
# `run.sh --device cpu --sizes toy` tries it anywhere.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH="benchmarks${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"${PYTHON:-python}" benchmarks/log_sum_exp.py --out "${OUT:-benchmarks/results}/log_sum_exp.json" || echo "log_sum_exp.py failed" >&2
exec "${PYTHON:-python}" benchmarks/gpu/run.py --out "${OUT:-benchmarks/results}/gpu.json" "$@"
