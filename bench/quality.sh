#!/usr/bin/env bash
# Held-out KL and perplexity of a model's formats, beside its float weights taken off their old grid (bench/degrid.py):
# uniform 4-bit g64 (stock rounding), ours at TARGET_BPW from 4 and 8 bits, uniform 4-bit g32, uniform 8-bit.
# Usage: bench/quality.sh MODEL WORK_DIR [TARGET_BPW [CONVERT_OPTION...]]      MODEL: a GGUF file or a float directory
set -euo pipefail
cd "$(dirname "$0")/.."
model=$1 work=$2 target=${3:-5.0}
shift $(($# < 3 ? $# : 3))
mkdir -p "$work"
if [[ ! -d $work/reference ]]; then
  tools/venv.sh tests/requirements.txt
  # An empty plan leaves every weight as it is: the model's float weights as a directory.
  echo '{"version": 1, "default": {"bits": 4, "group_size": 64}, "layers": {}}' > "$work/float.json"
  build/release/optiq convert "$model" -o "$work/float" --overwrite --plan "$work/float.json" --no-eval > /dev/null
  .venv/bin/python bench/degrid.py "$work/float" "$work/reference"
  rm -rf "$work/float"
fi
build/release/optiq convert "$work/reference" -o "$work/optiq" --overwrite --target-bpw "$target" --compare 4g32 --compare 8g64 "$@"
