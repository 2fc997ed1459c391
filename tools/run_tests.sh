#!/usr/bin/env bash
# All tests; ends with a pytest-like closing line.
set -uo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
passed=0
failed=0
names=()
step() {
  local name=$1
  shift
  echo "== $name"
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    names+=("$name")
  fi
}
unit() { ctest --test-dir build/release --output-on-failure -j 2; }
python_tests() {
  tools/venv.sh tests/requirements.txt && OPTIQ_BINARY=$PWD/build/release/optiq .venv/bin/python -m pytest -q tests
}
malformed() {
  cmake --preset asan > build/configure-asan.log 2>&1 || { cat build/configure-asan.log; return 1; }
  cmake --build --preset asan --target optiq io_test || return 1
  build/asan/io_test --gtest_brief=1 || return 1
  .venv/bin/python tests/malformed/run_corpus.py build/asan/optiq --sanitized
}
step "include direction" python3 tools/check_includes.py
step "unit and golden tests" unit
step "command line and interop (pytest)" python_tests
step "malformed files under ASan and UBSan" malformed
for n in ${names[@]+"${names[@]}"}; do echo "FAILED: $n"; done
echo "== $passed passed, $failed failed in $((SECONDS - start)) s"
((failed == 0))
