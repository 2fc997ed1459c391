#!/usr/bin/env python3
"""Resident memory with caches of several widths, beside what the plan says: the peak of `optiq generate` after a long prompt.

    bench/kv_memory.py OPTIQ MODEL PROMPT_FILE [--kv-bits 16,8,4]

The difference of two peaks should be the difference of the two caches' bytes.
"""
import argparse
import json
import os
import subprocess


def run(args, bits):
    command = [args.optiq, "generate", args.model, "--raw", "--prompt-file", args.prompt, "--max-tokens", "8", "--ignore-eos", "--temp", "0",
               "--kv-bits", bits, "--json", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, bits
    result = json.loads(out)
    tokens = result["prompt_tokens"] + result["generated_tokens"]
    # Kinds of layers that keep all tokens; a window of fewer tokens is as large as it gets.
    kinds = result["kv_cache"]["kinds"]
    cache = sum(min(k["bytes"], k["bytes_per_token"] * tokens) for k in kinds)
    return tokens, cache, result["kv_cache"]["allocated_bytes"], usage.ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("optiq")
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--kv-bits", default="16,8,4")
    args = parser.parse_args()
    first = None
    print(f"{'bits':>4} {'tokens':>7} {'cache MB':>9} {'allocated':>9} {'peak MB':>8} {'saved by plan':>14} {'saved, seen':>12}")
    for bits in args.kv_bits.split(","):
        tokens, cache, allocated, peak = run(args, bits)
        first = first or (cache, peak)
        print(f"{bits:>4} {tokens:7} {cache / 1e6:9.1f} {allocated / 1e6:9.1f} {peak / 1e6:8.1f} {(first[0] - cache) / 1e6:14.1f} {(first[1] - peak) / 1e6:12.1f}")


if __name__ == "__main__":
    main()
