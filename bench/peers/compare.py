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
import sys
import time

PROMPT, STEPS = 512, 64


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
    import llama_cpp as lc
    lc.llama_backend_init()
    params = lc.llama_model_default_params()
    model = lc.llama_model_load_from_file(args.gguf.encode(), params)
    ctx_params = lc.llama_context_default_params()
    ctx_params.n_ctx, ctx_params.n_batch, ctx_params.n_ubatch, ctx_params.n_seq_max = 16 * 256, 512, 512, 16
    ctx_params.n_threads = ctx_params.n_threads_batch = args.threads
    ctx = lc.llama_init_from_model(model, ctx_params)
    vocab = lc.llama_vocab_n_tokens(lc.llama_model_get_vocab(model))
    batch = lc.llama_batch_init(512, 0, 1)

    def decode(items):  # (token, position, sequence, wants logits)
        batch.n_tokens = len(items)
        for i, (token, position, sequence, logits) in enumerate(items):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, logits
            batch.seq_id[i][0] = sequence
        if lc.llama_decode(ctx, batch) != 0:
            sys.exit("llama_decode failed")

    def clear():
        lc.llama_memory_clear(lc.llama_get_memory(ctx), True)

    def steps(sequences):
        clear()
        decode([(s + 1, 0, s, True) for s in range(sequences)])
        start = time.perf_counter()
        for p in range(1, STEPS + 1):
            decode([((s * 31 + p * 7) % vocab, p, s, True) for s in range(sequences)])
        return STEPS * sequences / (time.perf_counter() - start)

    def run():
        result = {}
        clear()
        tokens = [(i * i * 31 + i * 7) % vocab for i in range(PROMPT)]
        start = time.perf_counter()
        decode([(t, i, 0, i == PROMPT - 1) for i, t in enumerate(tokens)])
        result["prefill"] = PROMPT / (time.perf_counter() - start)
        result["decode"] = steps(1)
        result["batch 4"], result["batch 16"] = steps(4), steps(16)
        return result
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
