#!/usr/bin/env python3
"""Includes point one way down the layers: a file may include its own folder and those below it."""
import pathlib
import re
import sys

LAYERS = ["base", "io", "tensor", "kernels", "ops", "text", "kv", "model", "engine", "quant", "eval", "server", "cli"]
INCLUDE = re.compile(r'^\s*#include "([a-z_]+)/')


def main():
    root = pathlib.Path(__file__).resolve().parent.parent / "src"
    bad = []
    count = 0
    for path in sorted(root.rglob("*.[ch]*")):
        layer = path.relative_to(root).parts[0]
        if layer not in LAYERS:
            bad.append(f"{path}: folder '{layer}' is not a layer")
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            m = INCLUDE.match(line)
            if m and m.group(1) in LAYERS:
                count += 1
                if LAYERS.index(m.group(1)) > LAYERS.index(layer):
                    bad.append(f"{path.relative_to(root.parent)}:{number}: {layer} may not include {m.group(1)}")
    print("\n".join(bad) if bad else f"{count} includes, all downward")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
