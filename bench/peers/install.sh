#!/usr/bin/env bash
# Installs the peers into bench/peers/venv: llama-cpp-python built for this machine, mlx-lm on the CPU, torch and transformers.
# usage: bench/peers/install.sh [llama] [mlx] [torch]   (default: all)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=${OPTIQ_PEERS_VENV:-$here/venv}
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
want=${*:-llama mlx torch}
for peer in $want; do
  case $peer in
    llama) CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAVA_BUILD=OFF" \
           CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-$(nproc)} \
           "$venv/bin/pip" install --no-binary llama-cpp-python "llama-cpp-python" ;;
    mlx) "$venv/bin/pip" install "mlx[cpu]" mlx-lm ;;
    torch) "$venv/bin/pip" install torch transformers --extra-index-url https://download.pytorch.org/whl/cpu ;;
    *) echo "unknown peer $peer" >&2; exit 2 ;;
  esac
done
