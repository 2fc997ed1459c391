#!/usr/bin/env python3
"""The same work by optiq and by the peers, in turns, and the ratios with their spread.

    bench/peers/compare.py --optiq build/release/optiq --mlx MLX_DIR [--gguf FILE.gguf] [--hf HF_DIR] [--rounds 5]

optiq and mlx-lm read --mlx, llama.cpp --gguf, torch (bf16) --hf. Every round runs each peer once: a prompt of 512 tokens, 64 decode
steps after a short prompt, and decode steps of 4 and 16 sequences (optiq and llama.cpp). Run with bench/peers/venv/bin/python
(install.sh). Times exclude loading. A ratio above 1 means that optiq is faster.
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PROMPT, STEPS = 512, 64
FILE_TYPES = {"q4_0": 2, "q4_1": 3, "q8_0": 7}


def optiq(args):
    def run():
        out = subprocess.run([args.optiq, "bench", args.mlx, "--prefill", str(PROMPT), "--depth", "0", "--batch", "4,16", "--steps",
                              str(STEPS), "--repeats", "3", "--threads", str(args.threads), "--json", "--quiet"],
                             capture_output=True, text=True, check=True)
        result = {}
        for c in json.loads(out.stdout)["cases"]:
            name = c["kind"] if c["kind"] != "batch" else f"batch {c['size']}"
            result[name] = c["tokens_per_second"]
        return result
    return run


def llama(args):
    from llama_cpp import LlamaCpp, LlamaSession
    lib = LlamaCpp(args.llama_libraries)
    path = args.gguf
    if args.requantize:
        path = os.path.join(tempfile.gettempdir(), f"optiq-peer-{args.requantize}-{os.path.basename(args.gguf)}")
        if not os.path.exists(path):
            lib.requantize(args.gguf, path, FILE_TYPES[args.requantize])
    session = LlamaSession(lib, path, args.threads)

    def run():
        return {"prefill": session.prefill(PROMPT), "decode": session.steps(1, STEPS), "batch 4": session.steps(4, STEPS),
                "batch 16": session.steps(16, STEPS)}
    run()
    return run


def torch_bf16(args):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.hf, dtype=torch.bfloat16).eval()
    vocab = model.config.vocab_size
    ids = torch.tensor([[(i * i * 31 + i * 7) % vocab for i in range(PROMPT)]])

    @torch.no_grad()
    def run():
        start = time.perf_counter()
        model(ids, logits_to_keep=1)
        prefill = PROMPT / (time.perf_counter() - start)
        out = model(ids[:, :1], use_cache=True)
        start = time.perf_counter()
        for p in range(STEPS):
            out = model(ids[:, p:p + 1], past_key_values=out.past_key_values, use_cache=True)
        return {"prefill": prefill, "decode": STEPS / (time.perf_counter() - start)}
    run()
    return run


def mlx(args):
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import mlx.core as mx
    from mlx_lm import load
    from mlx_lm.models.cache import make_prompt_cache
    mx.set_default_device(mx.cpu)
    model, _ = load(args.mlx)

    def run():  # a hundred times slower: a short prompt and a few steps
        cache = make_prompt_cache(model)
        n = 8
        start = time.perf_counter()
        mx.eval(model(mx.array([list(range(n))]), cache=cache))
        prefill = n / (time.perf_counter() - start)
        start = time.perf_counter()
        for p in range(3):
            mx.eval(model(mx.array([[p + 1]]), cache=cache))
        return {"prefill": prefill, "decode": 3 / (time.perf_counter() - start)}
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optiq", required=True)
    parser.add_argument("--mlx", required=True)
    parser.add_argument("--gguf")
    parser.add_argument("--requantize", choices=FILE_TYPES, help="make this of --gguf first, every tensor alike (for speed only)")
    parser.add_argument("--llama-libraries", default=f"{HERE}/llama/package/bins/linux-x64")
    parser.add_argument("--hf")
    parser.add_argument("--with-mlx-lm", action="store_true")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    peers = {"optiq": optiq(args)}
    if args.gguf:
        peers["llama.cpp"] = llama(args)
    if args.hf:
        peers["torch bf16"] = torch_bf16(args)
    if args.with_mlx_lm:
        peers["mlx-lm"] = mlx(args)
    rates = {name: {} for name in peers}
    for _ in range(args.rounds):
        for name, run in peers.items():
            for case, rate in run().items():
                rates[name].setdefault(case, []).append(rate)
    print(f"{'case':10} {'peer':12} {'tok/s':>10} {'optiq':>10} {'ratio':>7} {'spread of the rounds':>22}")
    for name in peers:
        if name == "optiq":
            continue
        for case, theirs in rates[name].items():
            ours = rates["optiq"][case]
            ratios = [o / t for o, t in zip(ours, theirs)]
            print(f"{case:10} {name:12} {statistics.median(theirs):10.1f} {statistics.median(ours):10.1f} "
                  f"{statistics.median(ratios):7.2f} {min(ratios):10.2f} - {max(ratios):.2f}")


if __name__ == "__main__":
    main()
