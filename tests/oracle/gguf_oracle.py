#!/usr/bin/env python3
"""Makes (or checks) the GGUF test data with the `gguf` package, the reference for block formats and file layout.

    python3 tests/oracle/gguf_oracle.py [--check]

tests/data/gguf/blocks.safetensors   for each block type: random blocks and the f32 values of gguf.quants.dequantize
tests/data/gguf/tiny-*.gguf          the small models of tests/data/goldens/models, as llama.cpp's converter stores them
tests/data/gguf/expected.json        what reading those files must give: sha256 of every tensor as f32 in Hugging Face order,
                                     settings of config.json and generation_config.json, merges of the SentencePiece vocabulary

--check makes everything in a temporary directory and compares it with the stored files. Needs gguf, numpy, torch, safetensors.
"""
import argparse
import filecmp
import hashlib
import json
import math
import pathlib
import sys
import tempfile

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from gguf.quants import dequantize, quantize
from safetensors import safe_open
from safetensors.numpy import save_file

DATA = pathlib.Path(__file__).resolve().parent.parent / "data"
GOLDENS = DATA / "goldens" / "models"

# Where the f16 scales of a block are; all other bytes may be anything.
SCALES = {Q.Q4_0: [0], Q.Q4_1: [0, 2], Q.Q5_0: [0], Q.Q5_1: [0, 2], Q.Q8_0: [0], Q.Q2_K: [80, 82], Q.Q3_K: [108],
          Q.Q4_K: [0, 2], Q.Q5_K: [0, 2], Q.Q6_K: [208]}


def make_blocks(out):
    rng = np.random.default_rng(20261123)
    tensors = {}
    for kind, places in SCALES.items():
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        count = 512 // elements * 8
        blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
        for at in places:
            # finite halves of both signs and all magnitudes, with zeros, subnormals and the largest among them
            bits = rng.integers(0, 0x7C00, count, dtype=np.uint16) | (rng.integers(0, 2, count, dtype=np.uint16) << 15)
            bits[:4] = [0, 0x8000, 1, 0x7BFF]
            blocks[:, at:at + 2] = bits.astype("<u2").view(np.uint8).reshape(count, 2)
        tensors[f"{kind.name}.blocks"] = blocks
        tensors[f"{kind.name}.values"] = dequantize(blocks, kind).reshape(count, elements).astype(np.float32)
    save_file(tensors, out / "blocks.safetensors")
    (out / "blocks.safetensors").chmod(0o644)


def permute(w, heads):
    """llama.cpp's order of the rows of llama's q and k projections: rotary pairs side by side."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def llama3_factors(cfg):
    """One divisor per rotary frequency (llama.cpp convert_hf_to_gguf.py)."""
    s, dim = cfg["rope_scaling"], cfg["head_dim"]
    low, high, length = s["low_freq_factor"], s["high_freq_factor"], s["original_max_position_embeddings"]
    out = []
    for i in range(0, dim, 2):
        wavelength = 2 * math.pi * cfg["rope_theta"] ** (i / dim)
        if wavelength < length / high:
            out.append(1.0)
        elif wavelength > length / low:
            out.append(s["factor"])
        else:
            smooth = (length / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / s["factor"] + smooth))
    return np.array(out, np.float32)


def spm_merges(pieces, scores):
    """Every split of a piece into two pieces; best score first, then longer left part, then longer right part."""
    known, out = set(pieces), []
    for piece, score in zip(pieces, scores):
        for k in range(1, len(piece)):
            if piece[:k] in known and piece[k:] in known:
                out.append((score, piece[:k], piece[k:]))
    out.sort(key=lambda m: (m[0], len(m[1]), len(m[2])), reverse=True)
    return [[left, right] for _, left, right in out]


PROJECTIONS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
               "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
               "mlp.down_proj": "ffn_down", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
               "input_layernorm": "attn_norm"}
NORMS = {"post_attention_layernorm": "ffn_norm"}
GEMMA_NORMS = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
               "post_feedforward_layernorm": "post_ffw_norm"}


def gguf_name(arch, name):
    if not name.startswith("model.layers."):
        return {"model.embed_tokens": "token_embd", "model.norm": "output_norm",
                "lm_head": "output"}[name.removesuffix(".weight")] + ".weight"
    _, _, n, rest = name.split(".", 3)
    module, kind = rest.rsplit(".", 1)
    stems = PROJECTIONS | (GEMMA_NORMS if arch == "gemma3" else NORMS)
    return f"blk.{n}.{stems[module]}.{kind}"


def add_tokenizer(w, arch, cfg, tok, expected):
    vocab = {t: i for t, i in tok["model"]["vocab"].items()} | {a["content"]: a["id"] for a in tok["added_tokens"]}
    tokens = sorted(vocab, key=vocab.get)
    assert [vocab[t] for t in tokens] == list(range(len(tokens)))
    special = {a["id"] for a in tok["added_tokens"]}
    types = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(tokens))]
    if arch == "gemma3":
        w.add_tokenizer_model("llama")
        w.add_tokenizer_pre("default")
        for i, t in enumerate(tokens):
            if len(t) == 6 and t.startswith("<0x"):
                types[i] = gguf.TokenType.BYTE
        rank = {left + right: r for r, (left, right) in reversed(list(enumerate(tok["model"]["merges"])))}
        last = len(tok["model"]["merges"])
        scores = [-float(rank.get(t, last)) for t in tokens]
        w.add_token_scores(scores)
        w.add_unk_token_id(vocab["<unk>"])
        w.add_add_space_prefix(False)
        normal = [i for i in range(len(tokens)) if types[i] == gguf.TokenType.NORMAL]
        expected["merges"] = spm_merges([tokens[i] for i in normal], [scores[i] for i in normal])
    else:
        w.add_tokenizer_model("gpt2")
        w.add_tokenizer_pre("llama-bpe" if arch == "llama" else "qwen2")
        w.add_token_merges([" ".join(m) for m in tok["model"]["merges"]])
    w.add_token_list(tokens)
    w.add_token_types(types)
    return vocab


def make_model(arch, golden, out, embedding, linear, second_head=None, layers=2, alignment=None):
    """embedding, linear: types of the embedding and of everything else that is a matrix; second_head: stores a tied embedding
    once more as output.weight in that type."""
    src = GOLDENS / golden
    cfg = json.loads((src / "config.json").read_text())
    tok = json.loads((src / "tokenizer.json").read_text())
    path = out / f"tiny-{arch}.gguf"
    w = gguf.GGUFWriter(path, arch)
    if alignment:
        w.add_custom_alignment(alignment)
    heads, kv_heads = cfg["num_attention_heads"], cfg["num_key_value_heads"]
    w.add_context_length(cfg["max_position_embeddings"])
    w.add_embedding_length(cfg["hidden_size"])
    w.add_block_count(layers)
    w.add_feed_forward_length(cfg["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_layer_norm_rms_eps(cfg["rms_norm_eps"])
    w.add_rope_freq_base(cfg["rope_theta"])
    expected = {"tensors": {}}
    if arch == "gemma3":
        w.add_sliding_window(cfg["sliding_window"])
        w.add_sliding_window_pattern([t == "sliding_attention" for t in cfg["layer_types"][:layers]])
    if "head_dim" in cfg:
        w.add_key_length(cfg["head_dim"])
        w.add_value_length(cfg["head_dim"])
    vocab = add_tokenizer(w, arch, cfg, tok, expected)

    generation = json.loads((src / "generation_config.json").read_text())
    eos = generation["eos_token_id"]
    w.add_eos_token_id(eos[0])
    if arch == "llama":
        w.add_eot_token_id(vocab["<|eot_id|>"])
    if cfg.get("bos_token_id") is not None:
        w.add_bos_token_id(cfg["bos_token_id"])
    w.add_chat_template((src / "chat_template.jinja").read_text())

    def add(name, hf, x, kind, permuted_heads=0, plus_one=False):
        """Stores x as `kind`; the expectation is made without llama.cpp's permutation, which must not change a row."""
        x = x.astype(np.float32)
        stored = x + np.float32(1) if plus_one else x
        packed = quantize(stored, kind)
        value = dequantize(packed, kind).reshape(x.shape).astype(np.float32)
        if plus_one:
            value = value - np.float32(1)
        if permuted_heads:
            packed = permute(packed, permuted_heads)
        w.add_tensor(name, np.ascontiguousarray(packed), raw_dtype=kind)
        if hf:
            expected["tensors"][hf] = {"shape": list(x.shape), "sha256": hashlib.sha256(value.tobytes()).hexdigest()}

    with safe_open(src / "model.safetensors", "pt") as f:
        for hf in sorted(f.keys()):
            if hf.startswith("model.layers.") and int(hf.split(".")[2]) >= layers:
                continue
            x = f.get_tensor(hf).to(torch.float32).numpy()
            permuted = 0
            if arch == "llama" and (".q_proj." in hf or ".k_proj." in hf):
                permuted = heads if ".q_proj." in hf else kv_heads
            kind = Q.F32 if x.ndim == 1 else embedding if "embed_tokens" in hf else linear
            if second_head and "embed_tokens" in hf:
                add("token_embd.weight", None, x, kind)
                add("output.weight", hf, x, second_head)
                continue
            add(gguf_name(arch, hf), hf, x, kind, permuted, arch == "gemma3" and x.ndim == 1)
    if arch == "llama":
        w.add_tensor("rope_freqs.weight", llama3_factors(cfg))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

    keys = ["architectures", "model_type", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
            "max_position_embeddings", "rms_norm_eps", "rope_theta", "vocab_size", "tie_word_embeddings", "bos_token_id",
            "head_dim", "rope_scaling", "layer_types", "sliding_window", "query_pre_attn_scalar", "rope_local_base_freq"]
    expected["config"] = {k: cfg[k] for k in keys if k in cfg} | {"num_hidden_layers": layers, "eos_token_id": eos[0]}
    if arch == "gemma3":
        expected["config"]["layer_types"] = cfg["layer_types"][:layers]
    if expected["config"].get("rope_scaling"):
        expected["config"]["rope_scaling"].pop("rope_theta", None)
    expected["eos"] = eos
    return expected


def make_all(out):
    make_blocks(out)
    expected = {
        "tiny-llama": make_model("llama", "llama", out, Q.Q8_0, Q.Q5_1),
        "tiny-qwen2": make_model("qwen2", "qwen2", out, Q.Q5_0, Q.Q8_0, second_head=Q.Q8_0, alignment=64),
        "tiny-qwen3": make_model("qwen3", "qwen3", out, Q.F16, Q.BF16),
        "tiny-gemma3": make_model("gemma3", "gemma3_text", out, Q.Q8_0, Q.Q4_1, layers=5),
    }
    expected["tiny-llama"]["golden"] = "llama"
    (out / "expected.json").write_text(json.dumps(expected, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--check", action="store_true", help="compare with the stored files instead of writing them")
    args = ap.parse_args()
    stored = DATA / "gguf"
    if not args.check:
        stored.mkdir(parents=True, exist_ok=True)
        make_all(stored)
        return 0
    with tempfile.TemporaryDirectory() as tmp:
        made = pathlib.Path(tmp)
        make_all(made)
        different = [p.name for p in sorted(made.iterdir()) if not filecmp.cmp(p, stored / p.name, shallow=False)]
    print("different: " + ", ".join(different) if different else "all files are as stored")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
