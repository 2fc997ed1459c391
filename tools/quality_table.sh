#!/usr/bin/env bash
# Held-out KL and perplexity of a float model's formats: uniform 4-bit g64, our plan at a target, uniform 4-bit g32, uniform 8-bit.
# Usage: tools/quality_table.sh MODEL OUT [TARGET_BPW]
set -euo pipefail
cd "$(dirname "$0")/.."
build/release/optiq convert "$1" -o "$2" --overwrite --target-bpw "${3:-5.0}" --compare 4g32 --compare 8g64
