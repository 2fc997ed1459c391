#!/usr/bin/env python3
"""A llama checkpoint with the true widths of an 8B model, some layers of it, random bf16 weights; for memory and time, not for quality.

    bench/synthetic_llama.py TOKENIZER_DIR OUT [--layers 6]

TOKENIZER_DIR: any model directory; its tokenizer files are copied (its ids must be below 128256).
"""

import argparse
import json
import pathlib
import shutil
import struct

import numpy as np

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 8192},
}


def tensors(layers):
    d, f, v = CONFIG["hidden_size"], CONFIG["intermediate_size"], CONFIG["vocab_size"]
    kv = CONFIG["num_key_value_heads"] * CONFIG["head_dim"]
    yield "model.embed_tokens.weight", (v, d)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (d,)
        yield p + "post_attention_layernorm.weight", (d,)
        for name, shape in [("self_attn.q_proj", (d, d)), ("self_attn.k_proj", (kv, d)), ("self_attn.v_proj", (kv, d)),
                            ("self_attn.o_proj", (d, d)), ("mlp.gate_proj", (f, d)), ("mlp.up_proj", (f, d)),
                            ("mlp.down_proj", (d, f))]:
            yield p + name + ".weight", shape
    yield "model.norm.weight", (d,)
    yield "lm_head.weight", (v, d)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=6)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    (args.out / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": args.layers}, indent=2))
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"]:
        source = pathlib.Path(args.tokenizer) / name
        if source.exists():
            shutil.copy(source, args.out / name)
    header, at = {}, 0
    for name, shape in tensors(args.layers):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    with open(args.out / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors(args.layers):
            if len(shape) == 1:
                values = np.ones(shape, np.float32)
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
                continue
            for begin in range(0, shape[0], 2048):  # a slice at a time: memory stays small
                rows = min(2048, shape[0] - begin)
                values = random.standard_normal((rows, shape[1]), dtype=np.float32) * np.float32(0.7 / np.sqrt(shape[1]))
                file.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())
    print(f"{args.out}: {at / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
