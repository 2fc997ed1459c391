#!/usr/bin/env python3
"""The sensitivity sweep written naively in PyTorch f32: one whole forward pass per weight. Prints seconds for a few weights and the
estimate for all, beside `optiq sensitivity` on the same tokens count.

    python3 bench/naive_sweep.py MODEL_DIR [--weights 4] [--sequences 8] [--length 256] [--threads 2]

MODEL_DIR is a Hugging Face directory (llama, qwen2, ...). Needs torch, transformers and numpy.
"""
import argparse
import time

import torch
from transformers import AutoModelForCausalLM


def rtn(w, bits=4, g=64):
    """MLX's affine round to nearest, parameters rounded to bf16."""
    x = w.reshape(-1, g)
    n = 2**bits - 1
    lo, hi = x.min(1).values, x.max(1).values
    use_lo = lo.abs() > hi.abs()
    scale = ((hi - lo) / n).clamp_min(1e-7)
    scale = torch.where(use_lo, scale, -scale)
    edge = torch.where(use_lo, lo, hi)
    q0 = torch.round(edge / scale)
    bias = torch.where(q0 != 0, edge, torch.zeros_like(edge))
    scale = torch.where(q0 != 0, edge / torch.where(q0 != 0, q0, torch.ones_like(q0)), scale)
    codes = torch.round((x - bias[:, None]) / scale[:, None]).clamp(0, n)
    return (codes * scale.bfloat16().float()[:, None] + bias.bfloat16().float()[:, None]).reshape(w.shape)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("--weights", type=int, default=4)
    ap.add_argument("--sequences", type=int, default=8)
    ap.add_argument("--length", type=int, default=256)
    ap.add_argument("--threads", type=int, default=2)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32).eval()
    ids = torch.randint(0, model.config.vocab_size, (a.sequences, a.length), generator=torch.Generator().manual_seed(0))
    linears = [(n, m) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    with torch.no_grad():
        reference = torch.log_softmax(model(ids, use_cache=False).logits, -1)
        start = time.time()
        for name, module in linears[:: max(1, len(linears) // a.weights)][: a.weights]:
            kept = module.weight.data
            module.weight.data = rtn(kept)
            logp = torch.log_softmax(model(ids, use_cache=False).logits, -1)
            kl = (reference.exp() * (reference - logp)).sum(-1).mean().item()
            module.weight.data = kept
            print(f"{name}: KL {kl:.3e}", flush=True)
        each = (time.time() - start) / a.weights
    print(f"{each:.2f} s per weight, {each * (len(linears) + 1):.0f} s for all {len(linears) + 1}")


if __name__ == "__main__":
    main()
