#!/usr/bin/env bash
# Installs the peers into bench/peers: llama.cpp (prebuilt, with a backend for each instruction set), mlx-lm on the CPU, torch.
# usage: bench/peers/install.sh [llama] [mlx] [torch]   (default: all)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/venv/bin/python" ] || python3 -m venv "$here/venv"
pip() { "$here/venv/bin/pip" install --quiet "$@"; }
for peer in ${*:-llama mlx torch}; do
  case $peer in
    llama)
      pip cffi llama-cpp-py-sync
      mkdir -p "$here/llama"
      (cd "$here/llama" && npm pack --silent @node-llama-cpp/linux-x64 && tar xzf node-llama-cpp-linux-x64-*.tgz) ;;
    mlx) pip "mlx[cpu]" mlx-lm ;;
    torch) pip torch transformers ;;
    *) echo "unknown peer $peer" >&2; exit 2 ;;
  esac
done
