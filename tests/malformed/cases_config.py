"""config.json: missing and impossible fields, the quantization section, foreign formats."""

import json
import os

from corpus_base import GENERATE, read_safetensors, safetensors, sparse


def setter(**fields):
    return lambda config: config.update(fields)


def add_cases(c):
    def field(name, key, value, exits=2, substring=None):
        c.config(name, exits, key if substring is None else substring, setter(**{key: value}))

    def without(key, exits=2):
        c.config(f"missing_{key}", exits, key, lambda config: config.pop(key))

    for key in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"):
        without(key)
    field("heads_0", "num_attention_heads", 0)
    field("heads_negative", "num_attention_heads", -4)
    field("kv_heads_do_not_divide", "num_key_value_heads", 3)
    field("kv_heads_0", "num_key_value_heads", 0)
    field("head_dim_mismatch", "head_dim", 48, [2, 4], "self_attn")
    field("head_dim_odd", "head_dim", 31, [2, 4], "head_dim")
    field("layers_10_pow_9", "num_hidden_layers", 10**9)
    field("layers_one_too_many", "num_hidden_layers", 5, [2, 3, 4], "model.layers.4")
    field("vocab_2_pow_31", "vocab_size", 2**31)
    field("vocab_mismatch", "vocab_size", 511, [2, 4], "embed_tokens")
    field("hidden_string", "hidden_size", "128")
    field("hidden_fraction", "hidden_size", 128.5)
    field("hidden_2_pow_64", "hidden_size", 2**64)
    field("hidden_array", "hidden_size", [128])
    field("rope_theta_negative", "rope_theta", -1.0)
    field("rope_theta_string", "rope_theta", "10000")
    field("rope_scaling_string", "rope_scaling", "llama3")
    c.config("rope_factor_0", 2, "factor", lambda config: config["rope_scaling"].update(factor=0))
    c.config("rope_type_unknown", [2, 8], "rope_type", lambda config: config["rope_scaling"].update(rope_type="spiral"))
    field("eps_negative", "rms_norm_eps", -1e-5)
    field("activation_unknown", "hidden_act", "swooshy", [2, 8])
    field("model_type_unknown", "model_type", "no_such_family", 8)
    field("model_type_number", "model_type", 7)
    field("model_type_long", "model_type", "x" * 100000, 8, "model_type")
    field("tie_string", "tie_word_embeddings", "no")

    base = json.dumps(c.read_json("config.json"))
    c.config("not_finite", 4, "not valid JSON", text=base.replace("1e-05", "1e999"))
    c.config("nan_literal", 4, "not valid JSON", text=base.replace("1e-05", "NaN"))
    c.config("comments", 4, "not valid JSON", text="// a comment\n" + base)
    c.config("duplicate_key", 4, "appears twice", text='{"hidden_size": 1, ' + base[1:])
    c.config("truncated", 4, "not valid JSON", text=base[:len(base) // 2])
    c.config("empty", 4, "config.json", text="")
    c.config("array", 2, "must be an object", text="[]")
    c.config("deep", 4, "nested deeper", text='{"a": ' + "[" * 100000)
    c.config("trailing_junk", 4, "not valid JSON", text=base + " {}")
    c.config("nul_then_junk", 4, "config.json", text=base + "\0{}")
    c.config("lfs_pointer", 4, "git lfs pull", text="version https://git-lfs.github.com/spec/v1\n")
    path = c.model("config", "of_100_mb", 5, "more than the limit", without=["config.json"])
    sparse(os.path.join(path, "config.json"), 100_000_000, base.encode())
    path = c.model("config", "is_a_fifo", 2, "not a regular file", without=["config.json"])
    os.mkfifo(os.path.join(path, "config.json"))

    for method in ("gptq", "awq", "fp8", "bitnet", "mxfp4", "compressed-tensors", "bitsandbytes"):
        field(f"legacy_{method}", "quantization_config", {"quant_method": method, "bits": 4}, 8, method)
    field("legacy_without_method", "quantization_config", {"bits": 4}, 2, "quant_method")
    c.config("legacy_in_text_config", 8, "gptq", setter(text_config={"quantization_config": {"quant_method": "gptq"}}))

    def quantization(name, exits, substring, change):
        c.config(name, exits, substring, lambda config: change(config["quantization"]), group="quantization", base="base-4bit")

    layer = "model.layers.0.mlp.up_proj"
    for bits in (0, 1, 7, 9, -4, "4", 4.5):
        quantization(f"bits_{bits}", 2, "bits", lambda q, bits=bits: q.update(bits=bits))
    for group in (0, 3, 48, -64, 2**40):
        quantization(f"group_size_{group}", 2, "group_size", lambda q, group=group: q.update(group_size=group))
    quantization("bits_missing", 2, "bits", lambda q: q.pop("bits"))
    quantization("mode_mxfp4", 8, "mxfp4", lambda q: q.update(mode="mxfp4"))
    quantization("mode_number", 2, "mode", lambda q: q.update(mode=4))
    quantization("entry_bits_1", 2, layer, lambda q: q.update({layer: {"bits": 1, "group_size": 64}}))
    quantization("entry_disagrees_with_shapes", 2, layer, lambda q: q.update({layer: {"bits": 8, "group_size": 64}}))
    quantization("entry_false_but_quantized", 2, layer, lambda q: q.update({layer: False}))
    quantization("entry_number", 2, layer, lambda q: q.update({layer: 8}))
    quantization("entry_for_float_module", 2, "model.norm", lambda q: q.update({"model.norm": {"bits": 4, "group_size": 64}}))
    quantization("entry_of_unknown_path", 2, "vision_tower.x", lambda q: q.update({"vision_tower.x": {"bits": 8, "group_size": 64}}))
    c.config("section_missing", 2, "no 'quantization' field", lambda config: [
        config.pop("quantization"), config.pop("quantization_config", None)], group="quantization", base="base-4bit")
    c.config("section_is_array", 2, "quantization", setter(quantization=[]), group="quantization", base="base-4bit")

    header, data = read_safetensors(os.path.join(c.out, "base-4bit", "model.safetensors"))

    def tensors(name, exits, substring, change):
        changed = json.loads(json.dumps(header))
        change(changed)
        c.model("quantization", name, exits, substring, {"model.safetensors": safetensors(changed, data)}, base="base-4bit",
                without=["model.safetensors.index.json"])

    def rename(old, new):
        return lambda h: h.update({new: h.pop(old)})

    tensors("biases_absent", 4, f"{layer}.biases", rename(f"{layer}.biases", "zzz"))
    tensors("scales_absent", [2, 4], layer, rename(f"{layer}.scales", "zzz"))
    tensors("scales_integers", [4, 8], f"{layer}.scales", lambda h: h[f"{layer}.scales"].update(dtype="I16"))
    tensors("biases_other_dtype", 4, f"{layer}.biases", lambda h: h[f"{layer}.biases"].update(dtype="BF16"))
    tensors("weight_signed", 4, f"{layer}.weight", lambda h: h[f"{layer}.weight"].update(dtype="I32"))

    def reshape(name, shape_of):
        return lambda h: h[name].update(shape=shape_of(h[name]["shape"]))

    tensors("scales_transposed", 4, f"{layer}.", reshape(f"{layer}.scales", lambda s: s[::-1]))
    tensors("scales_flat", 4, f"{layer}.", reshape(f"{layer}.scales", lambda s: [s[0] * s[1]]))
    tensors("weight_flat", 4, f"{layer}.", reshape(f"{layer}.weight", lambda s: [s[0] * s[1]]))
    tensors("weight_rank_3", [2, 4], layer, lambda h: [
        h[f"{layer}.{p}"]["shape"].insert(0, 1) for p in ("weight", "scales", "biases")])

    # Numbers that are damaged in place: the files are well formed, generation must stop with an error.
    nan = bytearray(data)
    begin, end = header["model.layers.1.mlp.up_proj.scales"]["data_offsets"]
    nan[begin:end] = b"\xff\x7f" * ((end - begin) // 2)
    c.model("quantization", "scales_nan", [2, 4], "finite", {"model.safetensors": safetensors(header, bytes(nan))}, base="base-4bit",
            without=["model.safetensors.index.json"], command=GENERATE)
