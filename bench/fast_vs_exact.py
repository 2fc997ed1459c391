#!/usr/bin/env python3
"""How far the fast arithmetic is from the exact one: mean KL and top-1 agreement of `optiq logits --fast` against `--exact`.

    bench/fast_vs_exact.py OPTIQ MODEL... [--tokens 1024]

Text is data/heldout.jsonl, in pieces of 256 tokens. Needs numpy.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent


def read_logits(path):
    with open(path, "rb") as f:
        size = int.from_bytes(f.read(8), "little")
        entry = json.loads(f.read(size))["logits"]
        f.seek(8 + size + entry["data_offsets"][0])
        return np.fromfile(f, np.float32, int(np.prod(entry["shape"]))).reshape(entry["shape"])


def log_softmax(z):
    z = z.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("optiq")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tokens", type=int, default=1024)
    args = parser.parse_args()
    texts = [json.loads(line) for line in open(ROOT / "data" / "heldout.jsonl")]
    texts = [t["text"] for t in texts if isinstance(t.get("text"), str)]
    print(f"{'model':40} {'tokens':>7} {'mean KL':>10} {'max KL':>10} {'top-1':>8}")
    for model in args.models:
        kls, agree = [], []
        with tempfile.TemporaryDirectory() as tmp:
            for text in texts:
                if sum(map(len, kls)) >= args.tokens:
                    break
                rows = {}
                for mode in ("--exact", "--fast"):
                    out = f"{tmp}/{mode[2:]}.safetensors"
                    subprocess.run([args.optiq, "logits", model, "--prompt", text[:1000], "--out", out, mode, "--quiet"], check=True)
                    rows[mode] = read_logits(out)
                p, q = log_softmax(rows["--exact"]), log_softmax(rows["--fast"])
                kls.append((np.exp(p) * (p - q)).sum(-1))
                agree.append(p.argmax(-1) == q.argmax(-1))
        kl = np.concatenate(kls)
        print(f"{pathlib.Path(model).name:40} {len(kl):7} {kl.mean():10.2e} {kl.max():10.2e} {100 * np.concatenate(agree).mean():7.2f}%", flush=True)


if __name__ == "__main__":
    main()
