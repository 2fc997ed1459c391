"""Mixtures of experts against transformers in f32, for variants that no golden covers: tiny random models made here.

qwen2_moe (shared expert), qwen3_moe with dense layers between and without renormalization, experts fused in one tensor; then converted
by us and run by stock mlx-lm.
"""
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
mx = pytest.importorskip("mlx.core")
from mlx_lm import load  # noqa: E402
from mlx.utils import tree_map  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from safetensors.torch import load_file as load_torch, save_file as save_torch  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPTIQ = os.environ.get("OPTIQ_BINARY", str(ROOT / "build/release/optiq"))
TOKENIZER = ROOT / "tests/data/goldens/models/qwen3_moe"
COMMON = dict(vocab_size=512, hidden_size=128, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=4, intermediate_size=192,
              moe_intermediate_size=64, num_experts=8, num_experts_per_tok=2, max_position_embeddings=1024, tie_word_embeddings=False,
              rope_theta=1000000.0)
IDS = [(i * 7919 + 13) % 512 for i in range(40)]


def run(*args, fails=False):
    done = subprocess.run([OPTIQ, *map(str, args)], capture_output=True, text=True)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def make(tmp_path, kind):
    torch.manual_seed(5)
    if kind == "qwen2_moe":
        config = transformers.Qwen2MoeConfig(**COMMON, shared_expert_intermediate_size=96, decoder_sparse_step=1, norm_topk_prob=False)
        model = transformers.Qwen2MoeForCausalLM(config)
    else:
        config = transformers.Qwen3MoeConfig(**COMMON, head_dim=32, decoder_sparse_step=2, mlp_only_layers=[3], norm_topk_prob=False)
        model = transformers.Qwen3MoeForCausalLM(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2:
                p.normal_(0, p.shape[-1] ** -0.5)
            if name.endswith(("mlp.gate.weight", "shared_expert_gate.weight")):
                p.mul_(3)
            if name.endswith(".bias"):
                p.normal_(0, 0.3)
    model = model.to(torch.bfloat16)
    out = tmp_path / "model"
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(TOKENIZER / name, out / name)
    with torch.no_grad():
        model = type(model).from_pretrained(out, dtype=torch.float32)  # anew: casting rounded the rotary frequencies too
        logits = model(torch.tensor([IDS])).logits[0].numpy()
    return out, logits


def ours(directory, tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps(IDS))
    run("logits", directory, "--ids", tmp_path / "ids.json", "--out", tmp_path / "logits.safetensors", "--quiet", "--exact")
    return load_file(tmp_path / "logits.safetensors")["logits"]


@pytest.mark.parametrize("kind", ["qwen2_moe", "qwen3_moe"])
def test_equals_transformers_and_mlx_lm(kind, tmp_path):
    directory, want = make(tmp_path, kind)
    assert np.abs(ours(directory, tmp_path) - want).max() < 2e-4
    out = tmp_path / "out"
    run("convert", directory, "-o", out, "--candidate-bits", "3,8", "--target-bpw", "6.0", "--calibration-sequences", 2,
        "--calibration-length", 32, "--no-eval", "--force-plan", "--quiet")
    config = json.loads((out / "config.json").read_text())
    routers = {k: v for k, v in config["quantization"].items() if k.endswith((".mlp.gate", "shared_expert_gate"))}
    assert routers and all(v in (False, {"bits": 8, "group_size": 64}) for v in routers.values())
    if kind == "qwen2_moe":  # mlx-lm reads rope_theta in the old spelling
        assert config["rope_theta"] == 1000000.0
    model, _ = load(str(out))
    model.update(tree_map(lambda x: x.astype(mx.float32) if x.dtype == mx.bfloat16 else x, model.parameters()))
    theirs = np.array(model(mx.array([IDS]))[0].astype(mx.float32))
    assert np.abs(ours(out, tmp_path) - theirs).max() < 5e-4


def test_experts_fused_in_one_tensor(tmp_path):
    directory, want = make(tmp_path, "qwen3_moe")
    tensors = load_torch(directory / "model.safetensors")
    layers = {name.split(".mlp.experts.")[0] for name in tensors if ".mlp.experts." in name}
    if any(".mlp.experts.0." in name for name in tensors):
        for layer in layers:
            def take(projection):
                return torch.stack([tensors.pop(f"{layer}.mlp.experts.{e}.{projection}.weight") for e in range(8)])
            gate, up, down = take("gate_proj"), take("up_proj"), take("down_proj")
            tensors[f"{layer}.mlp.experts.gate_up_proj"] = torch.cat([gate, up], 1).contiguous()
            tensors[f"{layer}.mlp.experts.down_proj"] = down.contiguous()
        save_torch(tensors, directory / "model.safetensors", {"format": "pt"})
    assert np.abs(ours(directory, tmp_path) - want).max() < 2e-4
    assert "fused gate_up_proj" in run("inspect", directory)
