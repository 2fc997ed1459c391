"""Interop with the real mlx-lm: an MLX directory is the same model here and there.

Our converted goldens load in stock `mlx_lm.load` (strict) and give our logits, widened to f32; what mlx-lm wrote gives mlx-lm's logits
here. The widening: scales and biases are stored in 16 bits, arithmetic on MLX's CPU backend in 16 bits has errors of per cents, so both
sides compute in f32 from the same stored numbers.
"""
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core")
from mlx_lm import load  # noqa: E402
from mlx.utils import tree_map  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPTIQ = os.environ.get("OPTIQ_BINARY", str(ROOT / "build/release/optiq"))
MODELS = ROOT / "tests/data/goldens/models"
ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gemma3_text", "smollm3", "gemma4_e2b", "gemma4_26b_moe", "gemma4_31b",
                 "qwen3_moe", "lfm2"]
# mlx-lm rounds Gemma 3's embedding factor to bf16 in every dtype: about 1.5e-3 in the logits.
TOLERANCE = {"gemma3_text": 5e-3}


def run(*args):
    done = subprocess.run([OPTIQ, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def mlx_logits(directory, ids):
    model, _ = load(str(directory))
    widen = lambda x: x.astype(mx.float32) if x.dtype in (mx.float16, mx.bfloat16) else x
    model.update(tree_map(widen, model.parameters()))
    out = model(mx.array([ids]))[0].astype(mx.float32)
    mx.eval(out)
    return np.array(out)


def our_logits(directory, ids, tmp_path):
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    run("logits", directory, "--ids", tmp_path / "ids.json", "--out", tmp_path / "logits.safetensors", "--quiet")
    return load_file(tmp_path / "logits.safetensors")["logits"]


def prompt(name):
    data = json.loads((ROOT / f"tests/data/goldens/expected/{name}/prompts.json").read_text())
    prompts = data if isinstance(data, list) else data["prompts"]
    return prompts[3]["ids"]


def compare(directory, name, tmp_path):
    ids = prompt(name)
    ours, theirs = our_logits(directory, ids, tmp_path), mlx_logits(directory, ids)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < TOLERANCE.get(name, 5e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["float", "mixed48"])
def test_we_agree_on_what_mlx_lm_wrote(name, kind, tmp_path):
    compare(MODELS / (name if kind == "float" else f"{name}-{kind}"), name, tmp_path)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("bits,groups,target", [("4,8", "64", "6.5"), ("2,3,4,5,6,8", "32,64", "5.0")])
def test_stock_mlx_lm_loads_what_we_write(name, bits, groups, target, tmp_path):
    out = tmp_path / "out"
    text = run("convert", MODELS / name, "-o", out, "--candidate-bits", bits, "--group-size", groups, "--target-bpw",
               target, "--calibration-sequences", 2, "--calibration-length", 32,
               "--heldout-sequences", 2, "--heldout-length", 32, "--json", "--quiet", "--force-plan")
    result = json.loads(text)
    config = json.loads((out / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    widths = {v["bits"] for v in config["quantization"].values() if isinstance(v, dict)}
    assert len(widths) >= 2, "the plan should be mixed"
    assert result["achieved_bpw"] <= float(target)
    for file in ("README.md", "report.html", "optiq/metadata.json", "optiq/sensitivity.json", "tokenizer.json",
                 "generation_config.json", "model.safetensors.index.json"):
        assert (out / file).is_file(), file
    compare(out, name, tmp_path)


def test_towers_are_left_out_or_kept_beside_the_text_model(tmp_path):
    plain, kept = tmp_path / "plain", tmp_path / "kept"
    common = ["--candidate-bits", "4,8", "--target-bpw", "6", "--calibration-sequences", 1, "--calibration-length", 16, "--no-eval", "--force-plan",
              "--json", "--quiet"]
    result = json.loads(run("convert", MODELS / "gemma4_e2b", "-o", plain, *common))
    assert any("towers" in w for w in result["optiq_cpp"]["warnings"])
    assert not (plain / "optiq_towers.safetensors").exists()
    run("convert", MODELS / "gemma4_e2b", "-o", kept, "--keep-towers", *common)
    towers = mx.load(str(kept / "optiq_towers.safetensors"))
    assert set(towers) == {"vision_tower.patch_embedder.input_proj.weight", "audio_tower.output_proj.weight",
                           "embed_audio.embedding_projection.weight", "embed_vision.embedding_projection.weight"}
    original = mx.load(str(MODELS / "gemma4_e2b/model.safetensors"))
    assert all(mx.array_equal(v, original["model." + k]) for k, v in towers.items())
    compare(kept, "gemma4_e2b", tmp_path)  # stock mlx-lm still loads the text model
    done = subprocess.run([OPTIQ, "convert", MODELS / "qwen3", "-o", tmp_path / "no", "--keep-towers", "--quiet"], capture_output=True, text=True)
    assert done.returncode == 2 and "no image or sound towers" in done.stderr
