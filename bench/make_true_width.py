#!/usr/bin/env python3
"""Writes a checkpoint with the true widths of a Gemma-4 model and random weights, in the Hugging Face layout (docs/scaling.md).

  bench/make_true_width.py e2b OUT --tokenizer DIR            all 35 layers, about 10 GB
  bench/make_true_width.py 26b OUT --tokenizer DIR --layers 6

--tokenizer: a model directory whose tokenizer files and chat template are copied; its ids are all below the true vocabulary.
--dense-experts: instead of the experts, one dense MLP with as many weights (to compare decoding speeds at equal size).
Layers are cut from the front, so that both kinds of attention are there; shared key-value layers only come whole.
"""
import argparse
import json
import pathlib
import shutil
import struct

import numpy as np

MODELS = {
    "e2b": dict(hidden_size=1536, num_hidden_layers=35, num_attention_heads=8, num_key_value_heads=1, intermediate_size=6144,
                num_kv_shared_layers=20, use_double_wide_mlp=True, hidden_size_per_layer_input=256, sliding_window=512, pattern=5),
    "e4b": dict(hidden_size=2560, num_hidden_layers=42, num_attention_heads=8, num_key_value_heads=2, intermediate_size=10240,
                num_kv_shared_layers=18, hidden_size_per_layer_input=256, sliding_window=512, pattern=6),
    "26b": dict(hidden_size=2816, num_hidden_layers=30, num_attention_heads=16, num_key_value_heads=8, num_global_key_value_heads=2,
                intermediate_size=2112, attention_k_eq_v=True, enable_moe_block=True, num_experts=128, top_k_experts=8,
                moe_intermediate_size=704, sliding_window=1024, pattern=6),
    "31b": dict(hidden_size=5376, num_hidden_layers=60, num_attention_heads=32, num_key_value_heads=16, num_global_key_value_heads=4,
                intermediate_size=21504, attention_k_eq_v=True, sliding_window=1024, pattern=6),
}


def text_config(name, layers):
    given = dict(MODELS[name])
    pattern = given.pop("pattern")
    config = dict(model_type="gemma4_text", head_dim=256, global_head_dim=512, vocab_size=262144, vocab_size_per_layer_input=262144,
                  hidden_size_per_layer_input=0, num_kv_shared_layers=0, use_double_wide_mlp=False, attention_k_eq_v=False,
                  num_global_key_value_heads=None, enable_moe_block=False, rms_norm_eps=1e-6, final_logit_softcapping=30.0,
                  hidden_activation="gelu_pytorch_tanh", attention_bias=False, tie_word_embeddings=True, max_position_embeddings=131072,
                  pad_token_id=0, bos_token_id=2, eos_token_id=1, dtype="bfloat16", torch_dtype="bfloat16",
                  rope_parameters={"full_attention": {"partial_rotary_factor": 0.25, "rope_theta": 1e6, "rope_type": "proportional"},
                                   "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}})
    config.update(given)
    types = ["full_attention" if i % pattern == pattern - 1 else "sliding_attention" for i in range(config["num_hidden_layers"])]
    if layers:
        if config["num_kv_shared_layers"]:
            raise SystemExit("a model with shared key-value layers cannot be cut")
        types = types[:layers]
        config["num_hidden_layers"] = layers
    types[-1] = "full_attention"
    config["layer_types"] = types
    return config


def tensors(c):
    """Yields name, shape, and the standard deviation of its weights (None: a norm's ones)."""
    d, n, root = c["hidden_size"], c["num_hidden_layers"], "model.language_model."
    ple = c["hidden_size_per_layer_input"]
    first_shared = n - c["num_kv_shared_layers"]
    yield root + "embed_tokens.weight", (c["vocab_size"], d), d**-0.5
    if ple:
        yield root + "embed_tokens_per_layer.weight", (c["vocab_size_per_layer_input"], n * ple), ple**-0.5
        yield root + "per_layer_model_projection.weight", (n * ple, d), d**-0.5
        yield root + "per_layer_projection_norm.weight", (ple,), None
    for i, kind in enumerate(c["layer_types"]):
        p = f"{root}layers.{i}."
        full = kind == "full_attention"
        head = c["global_head_dim"] if full else c["head_dim"]
        k_eq_v = full and c["attention_k_eq_v"]
        kv = (c["num_global_key_value_heads"] if k_eq_v else c["num_key_value_heads"]) * head
        q = c["num_attention_heads"] * head
        inter = c["intermediate_size"] * (2 if c["use_double_wide_mlp"] and i >= first_shared else 1)
        for norm in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"):
            yield p + norm + ".weight", (d,), None
        yield p + "layer_scalar", (1,), None
        yield p + "self_attn.q_proj.weight", (q, d), d**-0.5
        yield p + "self_attn.o_proj.weight", (d, q), q**-0.5
        yield p + "self_attn.q_norm.weight", (head,), None
        if i < first_shared:
            yield p + "self_attn.k_proj.weight", (kv, d), d**-0.5
            if not k_eq_v:
                yield p + "self_attn.v_proj.weight", (kv, d), d**-0.5
            yield p + "self_attn.k_norm.weight", (head,), None
        yield p + "mlp.gate_proj.weight", (inter, d), d**-0.5
        yield p + "mlp.up_proj.weight", (inter, d), d**-0.5
        yield p + "mlp.down_proj.weight", (d, inter), inter**-0.5
        if ple:
            yield p + "per_layer_input_gate.weight", (ple, d), d**-0.5
            yield p + "per_layer_projection.weight", (d, ple), ple**-0.5
            yield p + "post_per_layer_input_norm.weight", (d,), None
        if c["enable_moe_block"]:
            e, m = c["num_experts"], c["moe_intermediate_size"]
            yield p + "router.proj.weight", (e, d), 2.0
            yield p + "router.scale", (d,), None
            yield p + "router.per_expert_scale", (e,), None
            yield p + "experts.gate_up_proj", (e, 2 * m, d), d**-0.5
            yield p + "experts.down_proj", (e, d, m), m**-0.5
            for norm in ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "pre_feedforward_layernorm_2"):
                yield p + norm + ".weight", (d,), None
    yield root + "norm.weight", (d,), None


def bf16(values):
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokenizer", type=pathlib.Path, required=True)
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--dense-experts", action="store_true")
    args = parser.parse_args()
    config = text_config(args.model, args.layers)
    if args.dense_experts:
        config["intermediate_size"] += config["num_experts"] * config["moe_intermediate_size"]
        config["enable_moe_block"] = False
    args.out.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(args.tokenizer / name, args.out / name)
    outer = {"architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "text_config": config,
             "vocab_size": config["vocab_size"], "tie_word_embeddings": True, "dtype": "bfloat16", "eos_token_id": [1, 106]}
    (args.out / "config.json").write_text(json.dumps(outer, indent=2))
    # Normal values once; a tensor takes rows of them from random places: fast, and no two tensors are alike.
    rng = np.random.default_rng(1)
    pool = rng.standard_normal(16 << 20, dtype=np.float32)
    header, offset, plan = {"__metadata__": {"format": "pt"}}, 0, []
    for name, shape, std in tensors(config):
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
        plan.append((int(np.prod(shape)), std))
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(args.out / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        scaled = {}
        for count, std in plan:
            if std is None:
                file.write(bf16(1 + 0.1 * rng.standard_normal(count)).tobytes())
                continue
            if std not in scaled:
                scaled[std] = bf16(pool * np.float32(std))
            values = scaled[std]
            while count > 0:
                n = min(count, 8 << 20)
                start = int(rng.integers(0, len(values) - n + 1))
                file.write(values[start : start + n].tobytes())
                count -= n
    print(f"{args.out}: {offset / 1e9:.2f} GB, {offset // 2:,} weights")


if __name__ == "__main__":
    main()
