#!/usr/bin/env python3
"""Takes a model's weights off the quantization grid they were rounded to, without changing the function it computes.

    bench/degrid.py IN_DIR OUT_DIR [--sigma 0.25] [--seed 0]

Models inside Python packages carry weights that were quantized once and widened again: inside a group they take 16 values, so an encoder
that searches ranges finds the old grid and looks unfairly good. Here neighbouring modules are rescaled per channel by random factors that
cancel exactly (norm -> q, k, v; norm -> gate, up; v -> o; up -> down), the identities behind AWQ (Lin et al. 2023). Weights keep
their dtype, so the function changes by that rounding only. Families: llama, mistral, qwen2, qwen3, gemma3_text.
Needs numpy and safetensors.
"""

import argparse
import json
import pathlib
import shutil
import struct

import numpy as np


def load(directory):
    """name -> (dtype, float64 array), of all safetensors files."""
    out = {}
    for path in sorted(directory.glob("*.safetensors")):
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        for name, t in header.items():
            if name == "__metadata__":
                continue
            raw = data[8 + size + t["data_offsets"][0] : 8 + size + t["data_offsets"][1]]
            if t["dtype"] == "BF16":
                values = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, {"F16": np.float16, "F32": np.float32}[t["dtype"]])
            out[name] = (t["dtype"], values.reshape(t["shape"]))
    return out


def encode(dtype, values):
    if dtype != "BF16":
        return values.astype({"F16": np.float16, "F32": np.float32}[dtype]).tobytes()
    u = values.astype(np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def save(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    blobs = []
    for name, (dtype, values) in tensors.items():
        blob = encode(dtype, values)
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for blob in blobs:
            file.write(blob)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    config = json.loads((args.source / "config.json").read_text())
    kind = config["model_type"]
    if kind not in ("llama", "mistral", "qwen2", "qwen3", "gemma3_text"):
        raise SystemExit(f"degrid: model_type {kind!r} is not supported")
    for key in ("quantization", "quantization_config"):
        if config.pop(key, None) not in (None, {}):
            pass
    w = load(args.source)
    if any(name.endswith(".scales") for name in w):
        raise SystemExit("degrid: the source must be a float model")
    random = np.random.default_rng(args.seed)
    draw = lambda n: np.clip(np.exp(random.standard_normal(n) * args.sigma), 1 / 1.7, 1.7)

    def edit(name, fn):
        dtype, values = w[name]
        w[name] = (dtype, fn(values.astype(np.float64)).astype(np.float32))

    heads = config["num_attention_heads"]
    kv = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    plus_one = kind == "gemma3_text"  # the norm multiplies by 1 + w
    mlp_norm = "pre_feedforward_layernorm" if plus_one else "post_attention_layernorm"
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for norm, modules in [(p + "input_layernorm", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
                              (p + mlp_norm, ["mlp.gate_proj", "mlp.up_proj"])]:
            s = draw(config["hidden_size"])
            edit(norm + ".weight", lambda t: (1 + t) / s - 1 if plus_one else t / s)
            for m in modules:
                edit(p + m + ".weight", lambda t: t * s)
        t = draw(kv * head_dim)
        edit(p + "self_attn.v_proj.weight", lambda v: v * t[:, None])
        if p + "self_attn.v_proj.bias" in w:
            edit(p + "self_attn.v_proj.bias", lambda v: v * t)
        wide = np.repeat(t.reshape(kv, 1, head_dim), heads // kv, axis=1).reshape(-1)
        edit(p + "self_attn.o_proj.weight", lambda v: v / wide)
        u = draw(config["intermediate_size"])
        edit(p + "mlp.up_proj.weight", lambda v: v * u[:, None])
        edit(p + "mlp.down_proj.weight", lambda v: v / u)
    args.target.mkdir(parents=True)
    for file in args.source.iterdir():
        if file.is_file() and file.suffix in (".json", ".jinja", ".txt", ".model") and "safetensors" not in file.name:
            shutil.copy2(file, args.target / file.name)
    (args.target / "config.json").write_text(json.dumps(config, indent=2))
    save(args.target / "model.safetensors", w)
    print(f"degrid: wrote {args.target}")


if __name__ == "__main__":
    main()
