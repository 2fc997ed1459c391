#!/usr/bin/env bash
# Makes .venv with the packages of a requirements file; does nothing when it has them already.
# Usage: tools/venv.sh tests/requirements.txt
set -euo pipefail
cd "$(dirname "$0")/.."
requirements=$1
stamp=.venv/$(sha256sum "$requirements" | cut -c1-16).stamp
[[ -f $stamp ]] && exit 0
[[ -x .venv/bin/python ]] || python3 -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check -r "$requirements"
touch "$stamp"
