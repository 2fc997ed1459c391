"""Makes tests/data/goldens/lora: two small random adapters in mlx-lm's format, the same in PEFT's, and the logits that mlx-lm computes
with the first on tests/data/goldens/models/llama in f32 (lora_oracle.py REPOSITORY)."""
import json
import math
import pathlib
import sys

import mlx.core as mx
import mlx_lm
import numpy as np
from mlx.utils import tree_map
from mlx_lm.tuner.utils import load_adapters
from safetensors.numpy import save_file

def shapes(config):
    d, kv = config["hidden_size"], config["num_key_value_heads"] * config["head_dim"]
    q = config["num_attention_heads"] * config["head_dim"]
    return {"self_attn.q_proj": (d, q), "self_attn.v_proj": (d, kv), "mlp.down_proj": (config["intermediate_size"], d)}


def make(out, name, config, layers, rank, scale, seed):
    rng = np.random.default_rng(seed)
    mlx, peft = {}, {}
    for layer in layers:
        for module, (n_in, n_out) in shapes(config).items():
            a = (rng.standard_normal((n_in, rank)) / math.sqrt(n_in)).astype(np.float32)
            b = (rng.standard_normal((rank, n_out)) * 0.3).astype(np.float32)
            path = f"model.layers.{layer}.{module}"
            mlx[path + ".lora_a"], mlx[path + ".lora_b"] = a, b
            peft[f"base_model.model.{path}.lora_A.weight"] = np.ascontiguousarray(a.T)
            peft[f"base_model.model.{path}.lora_B.weight"] = np.ascontiguousarray(b.T)
    first, second = out / f"{name}_mlx", out / f"{name}_peft"
    for d in (first, second):
        d.mkdir(parents=True, exist_ok=True)
    save_file(mlx, first / "adapters.safetensors")
    save_file(peft, second / "adapter_model.safetensors")
    keys = list(shapes(config))
    (first / "adapter_config.json").write_text(json.dumps(
        {"fine_tune_type": "lora", "num_layers": config["num_hidden_layers"],
         "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": keys}}, indent=1) + "\n")
    (second / "adapter_config.json").write_text(json.dumps(
        {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "target_modules": [k.split(".")[-1] for k in keys],
         "bias": "none", "use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None,
         "rank_pattern": {}, "alpha_pattern": {}}, indent=1) + "\n")
    return first


def main():
    root = pathlib.Path(sys.argv[1]) / "tests/data/goldens"
    model_path = root / "models/llama"
    config = json.loads((model_path / "config.json").read_text())
    out = root / "lora"
    prompt = [int(i) for i in np.random.default_rng(0).integers(0, config["vocab_size"], 24)]
    expected = {}
    for name, layers, rank, scale, seed in (("a", (0, 1, 2, 3), 4, 2.0, 1), ("b", (1, 3), 2, 5.0, 2)):
        path = make(out, name, config, layers, rank, scale, seed)
        model, _ = mlx_lm.load(str(model_path))
        model = load_adapters(model, str(path))
        model.update(tree_map(lambda x: x.astype(mx.float32), model.parameters()))
        model.eval()
        expected[name] = np.array(model(mx.array([prompt]))[0])
    model, _ = mlx_lm.load(str(model_path))
    model.update(tree_map(lambda x: x.astype(mx.float32), model.parameters()))
    expected["none"] = np.array(model(mx.array([prompt]))[0])
    expected["ids"] = np.array(prompt, dtype=np.int32)
    save_file(expected, out / "logits.safetensors")
    print({k: float(np.abs(v - expected["none"]).max()) for k, v in expected.items() if k in "ab"})


main()
