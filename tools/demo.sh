#!/usr/bin/env bash
# The demo: a real float model in, a stock MLX mixed-precision model and an answer out.
# The calibration is smaller than convert's default (8 x 256 tokens), so that it ends within minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
optiq=$1
[[ -x .venv/bin/python ]] || python3 -m venv .venv
model=$(.venv/bin/python tools/fetch_model.py)
out=build/demo/SmolLM2-135M-Instruct-optiq
mkdir -p build/demo
question="What is the capital of France?"
echo "== optiq convert: ${model##*/}, 5.0 bits per weight from 4, 5, 6 and 8, calibration 8 x 64 tokens, held-out 8 x 128 tokens"
"$optiq" convert "$model" -o "$out" --overwrite --target-bpw 5.0 --candidate-bits 4,5,6,8 \
  --calibration-sequences 8 --calibration-length 64 \
  --heldout-sequences 8 --heldout-length 128
echo
echo "== optiq generate: $question"
"$optiq" generate "$out" --prompt "$question" --max-tokens 64
echo
echo "The model is in $out (README.md and report.html inside); stock mlx_lm.load reads it."
