"""Our caches beside the real mlx-lm classes: random schedules of chunks, single steps and trims give the same attention outputs.

The outputs of mlx-lm's KVCache, QuantizedKVCache and RotatingKVCache (also over rows that went through mx.quantize, which is what a
rotating quantized cache is: groups run along the head, so a row's codes do not depend on its place) go to a file that kv_test reads.
"""
import json
import os
import pathlib
import random
import subprocess

import pytest

mx = pytest.importorskip("mlx.core")
from mlx_lm.models.base import create_causal_mask, quantized_scaled_dot_product_attention  # noqa: E402
from mlx_lm.models.cache import KVCache, QuantizedKVCache, RotatingKVCache  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
KV_TEST = os.environ.get("OPTIQ_KV_TEST", str(ROOT / "build/release/kv_test"))
TOKENS, HEADS, KV_HEADS, SCALE = 90, 4, 2, 0.25
CASES = int(os.environ.get("OPTIQ_KV_TRACE_CASES", "1000"))


def rows(x):
    """[1, heads, tokens, dim] -> [tokens, heads * dim]"""
    return mx.contiguous(x[0].transpose(1, 0, 2).reshape(x.shape[2], -1))


def schedule(rng, trim):
    steps, length = [], 0
    while length < TOKENS:
        if trim and length > 4 and rng.random() < 0.1:
            n = rng.randint(1, 4)
            steps.append(-n)
            length -= n
            continue
        n = 1 if rng.random() < 0.5 else rng.randint(1, rng.choice([4, 20, 60]))
        n = min(n, TOKENS - length)
        steps.append(n)
        length += n
    return steps


def attend(cache, quantized, q, k, v):
    n = q.shape[2]
    mask = cache.make_mask(n, return_array=False, window_size=getattr(cache, "max_size", None))
    keys, values = cache.update_and_fetch(k, v)
    if quantized:
        return quantized_scaled_dot_product_attention(q, keys, values, scale=SCALE, mask=mask, group_size=cache.group_size, bits=cache.bits)
    if isinstance(mask, str):
        mask = create_causal_mask(n, keys.shape[2] - n)
    return mx.fast.scaled_dot_product_attention(q, keys, values, scale=SCALE, mask=mask)


@pytest.mark.parametrize("storage", ["full", "quantized", "rotating", "rotating-quantized"])
def test_traces(storage, tmp_path):
    rng = random.Random(f"kv {storage}")
    mx.random.seed(1)
    tensors, cases = {}, []
    for dim in (32, 64):
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            tensors[f"{dim}.{name}"] = mx.random.normal((1, heads, TOKENS, dim))
    for i in range(CASES):
        dim = rng.choice([32, 64])
        q, k, v = (tensors[f"{dim}.{x}"] for x in "qkv")
        quantized, rotating = "quantized" in storage, "rotating" in storage
        bits = rng.choice([2, 3, 4, 5, 6, 8]) if quantized else 32
        group = rng.choice([g for g in (32, 64) if dim % g == 0])
        max_size, keep = (rng.choice([8, 16, 24, 33, 80]), rng.choice([0, 0, 1, 4])) if rotating else (0, 0)
        if rotating:
            cache = RotatingKVCache(max_size=max_size, keep=keep)
            if quantized:
                k, v = (mx.dequantize(*mx.quantize(x, group, bits), group, bits) for x in (k, v))
        else:
            cache = QuantizedKVCache(group_size=group, bits=bits) if quantized else KVCache()
        # mlx-lm trims rings only while nothing was overwritten, and not after a chunk that was longer than the ring.
        steps, length, outputs = schedule(rng, trim=not rotating), 0, []
        for n in steps:
            if n < 0:
                assert cache.trim(-n) == -n
            else:
                part = slice(length, length + n)
                outputs.append(rows(attend(cache, quantized and not rotating, q[:, :, part], k[:, :, part], v[:, :, part])))
            length += n
        tensors[f"case{i}"] = mx.concatenate(outputs)
        cases.append({"name": f"case{i}", "inputs": str(dim), "heads": HEADS, "kv_heads": KV_HEADS, "dim": dim, "bits": bits,
                      "group_size": group, "max_size": max_size, "keep": keep, "schedule": steps})
    for name in list(tensors):
        if not name.startswith("case"):
            tensors[name] = rows(tensors[name])
    path = tmp_path / "trace.safetensors"
    mx.save_safetensors(str(path), tensors, {"cases": json.dumps(cases)})
    done = subprocess.run([KV_TEST, "--gtest_filter=KvTrace.*"], env={**os.environ, "OPTIQ_KV_TRACE": str(path)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{CASES} cases" in done.stdout, done.stdout[-2000:]
