#!/usr/bin/env bash
# Installs what the build needs and is missing: Debian packages (as root or with sudo) and a Rust toolchain check.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
packages=(g++ cmake ninja-build ccache mold pkg-config git ca-certificates libabsl-dev libhwy-dev nlohmann-json3-dev
          libfmt-dev libcli11-dev libboost1.81-dev libgtest-dev libbenchmark-dev python3 python3-venv)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q "install ok installed" || missing+=("$p")
done
# A tool that is there without its package (a newer cmake or python from elsewhere) serves as well.
keep=()
for p in ${missing[@]+"${missing[@]}"}; do
  case $p in
    g++|cmake|git|ccache|mold) command -v "$p" >/dev/null && continue ;;
    pkg-config|python3) command -v "$p" >/dev/null && continue ;;
    ninja-build) command -v ninja >/dev/null && continue ;;
    python3-venv) python3 -c 'import ensurepip' 2>/dev/null && continue ;;
  esac
  keep+=("$p")
done
if ((${#keep[@]})); then
  echo "installing: ${keep[*]}"
  sudo=""
  [[ $(id -u) == 0 ]] || sudo="sudo"
  export DEBIAN_FRONTEND=noninteractive
  $sudo apt-get update -qq || true
  $sudo apt-get install -y -qq --no-install-recommends "${keep[@]}" > build/apt.log 2>&1 ||
    { tail -20 build/apt.log; echo "could not install: ${keep[*]}" >&2; exit 1; }
fi
# A browser for the test of the page, where one is wanted (CI): without it that test is skipped.
if [[ -n ${OPTIQ_BROWSER:-} ]] && ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then
  echo "installing: chromium"
  sudo=""
  [[ $(id -u) == 0 ]] || sudo="sudo"
  { $sudo apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } > build/apt-browser.log 2>&1 ||
    echo "no chromium: the page is not tested (build/apt-browser.log)"
fi
if ! command -v cargo >/dev/null; then
  echo "cargo is missing: Rust 1.80 or newer is needed for the text library (Debian 12's own is too old); install it with rustup" >&2
  exit 1
fi
