"""optiq convert and sensitivity as a user meets them: budgets kept to the byte, plans in and out, kills, full disks, second runs."""

import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("OPTIQ_BINARY", str(ROOT / "build" / "release" / "optiq"))
MODELS = ROOT / "tests" / "data" / "goldens" / "models"
SMALL = ["--calibration-sequences", "2", "--calibration-length", "16", "--heldout-sequences", "2", "--heldout-length", "16"]
FLOAT_MODELS = ["gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3"]


def run(*args, **kwargs):
    return subprocess.run([BINARY, *map(str, args)], capture_output=True, timeout=300, **kwargs)


def convert(model, out, *args, **kwargs):
    return run("convert", model, "-o", out, *SMALL, *args, **kwargs)


def convert_json(model, out, *args):
    result = convert(model, out, "--json", "--quiet", *args)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def error_of(result, code):
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.decode().splitlines() if line.startswith("optiq: error: ")]
    assert len(lines) == 1, result.stderr
    return lines[0]


def header(path):
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = json.loads(data[8 : 8 + size])
    tensors.pop("__metadata__", None)
    return tensors


def tensors_of(directory):
    out = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        out.update(header(path))
    return out


def quantized_bytes_and_params(directory):
    """All bytes of the tensors that stand for weights (quantized or not), and how many weights they stand for."""
    tensors = tensors_of(directory)
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    size = lambda t: t["data_offsets"][1] - t["data_offsets"][0]
    total = params = 0
    for name, tensor in tensors.items():
        path, _, kind = name.rpartition(".")
        if kind != "weight" or len(tensor["shape"]) != 2:
            continue
        total += size(tensor)
        entry = config["quantization"].get(path, False)
        if entry:
            total += size(tensors[path + ".scales"]) + size(tensors[path + ".biases"])
            params += tensor["shape"][0] * tensor["shape"][1] * 32 // entry["bits"]
        else:
            params += tensor["shape"][0] * tensor["shape"][1]
    return total, params


def digest(directory):
    out = hashlib.sha256()
    for path in sorted(p for p in pathlib.Path(directory).rglob("*") if p.is_file()):
        out.update(str(path.relative_to(directory)).encode() + b"\0" + path.read_bytes())
    return out.hexdigest()


def weights_digest(directory):
    out = hashlib.sha256()
    for name in ["model.safetensors", "config.json", "optiq/plan.json", "optiq/sensitivity.json"]:
        out.update((pathlib.Path(directory) / name).read_bytes())
    return out.hexdigest()


# --- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOAT_MODELS)
@pytest.mark.parametrize("target", [3.7, 5.0, 6.1])
def test_bits_per_weight_count_every_byte(name, target, tmp_path):
    out = tmp_path / "out"
    convert_json(MODELS / name, out, "--target-bpw", target, "--candidate-bits", "2,3,4,5,6,8", "--group-size", "32,64",
                 "--no-eval")
    total, params = quantized_bytes_and_params(out)
    assert 8 * total / params <= target
    assert 8 * total / params >= 0.995 * target


def test_target_size_bounds_the_files(tmp_path):
    full = (MODELS / "qwen3" / "model.safetensors").stat().st_size
    target = full // 3
    out = tmp_path / "out"
    convert_json(MODELS / "qwen3", out, "--target-size", target, "--candidate-bits", "2,3,4,5,6,8", "--group-size", "32,64",
                 "--no-eval")
    files = sum(p.stat().st_size for p in out.glob("*.safetensors"))
    assert 0.995 * target <= files <= target


def test_match_bytes_of_another_model(tmp_path):
    other = MODELS / "llama-4bit"
    out = tmp_path / "out"
    convert_json(MODELS / "llama", out, "--match-bytes", other, "--candidate-bits", "2,3,4,5,6,8", "--group-size", "32,64",
                 "--no-eval")
    size = lambda d: sum(p.stat().st_size for p in d.glob("*.safetensors"))
    assert 0.99 * size(other) <= size(out) <= size(other)


@pytest.mark.parametrize("args", [["--target-bpw", "3.0"], ["--target-size", "20KB"], ["--target-size", "1"]])
def test_impossible_budget(args, tmp_path):
    out = tmp_path / "out"
    start = time.monotonic()
    message = error_of(convert(MODELS / "llama", out, *args), 2)
    assert time.monotonic() - start < 10
    assert "budget" in message or "bits per weight" in message
    assert not out.exists()


def test_budgets_exclude_each_other(tmp_path):
    error_of(convert(MODELS / "llama", tmp_path / "out", "--target-bpw", "5", "--target-size", "1MB"), 2)


# --- plans, overrides, dry runs ---------------------------------------------------------------------------------------


def test_plan_out_and_in(tmp_path):
    plan = tmp_path / "plan.json"
    first = tmp_path / "first"
    convert_json(MODELS / "llama", first, "--target-bpw", "5.5", "--save-plan", plan, "--no-eval")
    second = tmp_path / "second"
    convert_json(MODELS / "llama", second, "--plan", plan, "--no-eval")
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    edited = json.loads(plan.read_text())
    edited["layers"]["model.layers.0.self_attn.v_proj"] = {"bits": 3, "group_size": 32}
    plan.write_text(json.dumps(edited))
    third = tmp_path / "third"
    convert_json(MODELS / "llama", third, "--plan", plan, "--no-eval")
    quantization = json.loads((third / "config.json").read_text())["quantization"]
    assert quantization["model.layers.0.self_attn.v_proj"] == {"bits": 3, "group_size": 32}


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda p: p["layers"].update({"model.layers.99.mlp.up_proj": {"bits": 4, "group_size": 64}}), "model.layers.99"),
        (lambda p: p["layers"]["model.embed_tokens"].update(bits=7), "bits"),
        (lambda p: p["layers"]["model.embed_tokens"].update(group_size=48), "group"),
        (lambda p: p["layers"]["model.embed_tokens"].update(encoder="magic"), "magic"),
        (lambda p: p.pop("layers"), "layers"),
        (lambda p: p.update(layers=[1]), "layers"),
    ],
)
def test_bad_plan(change, word, tmp_path):
    plan = tmp_path / "plan.json"
    assert run("convert", MODELS / "llama", "--dry-run", "--save-plan", plan, *SMALL).returncode == 0
    edited = json.loads(plan.read_text())
    change(edited)
    plan.write_text(json.dumps(edited))
    out = tmp_path / "out"
    result = convert(MODELS / "llama", out, "--plan", plan)
    assert result.returncode not in (0, 1), result.stderr
    assert word in error_of(result, result.returncode)
    assert not out.exists()


def test_override(tmp_path):
    out = tmp_path / "out"
    convert_json(MODELS / "llama", out, "--target-bpw", "6", "--override", "v_proj=8", "--override", "layers.0.*up_proj=16",
                 "--no-eval")
    quantization = json.loads((out / "config.json").read_text())["quantization"]
    for path, entry in quantization.items():
        if "v_proj" in path:
            assert entry["bits"] == 8
        if path.startswith("model.layers.0.") and "up_proj" in path:
            assert entry is False
    error_of(convert(MODELS / "llama", tmp_path / "x", "--override", "nothing=8"), 2)
    error_of(convert(MODELS / "llama", tmp_path / "x", "--override", "v_proj=5"), 2)
    error_of(convert(MODELS / "llama", tmp_path / "x", "--override", "(((=8"), 2)


def test_dry_run_writes_nothing(tmp_path):
    result = run("convert", MODELS / "llama", "--dry-run", *SMALL, cwd=tmp_path)
    assert result.returncode == 0 and b"bits per weight" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_measure_once_decide_often(tmp_path):
    table = tmp_path / "sensitivity.json"
    assert run("sensitivity", MODELS / "llama", "-o", table, *SMALL[:4]).returncode == 0
    direct = tmp_path / "direct"
    convert_json(MODELS / "llama", direct, "--no-eval")
    via = tmp_path / "via"
    convert_json(MODELS / "llama", via, "--sensitivity", table, "--no-eval")
    assert (direct / "model.safetensors").read_bytes() == (via / "model.safetensors").read_bytes()
    message = error_of(convert(MODELS / "qwen3", tmp_path / "x", "--sensitivity", table), 7)
    assert "sensitivity.json" in message


def test_encoders(tmp_path):
    kl = {}
    for encoder in ["rtn", "search"]:
        result = convert_json(MODELS / "qwen3", tmp_path / encoder, "--encoder", encoder, "--force-plan")
        plan = json.loads((tmp_path / encoder / "optiq" / "plan.json").read_text())
        assert {e["encoder"] for e in plan["layers"].values() if e} == {encoder}
        kl[encoder] = result["optiq_cpp"]["evaluation"][0]["kl_mean"]
    assert kl["search"] < kl["rtn"]


# --- the output directory ---------------------------------------------------------------------------------------------


def test_existing_output_is_not_touched(tmp_path):
    out = tmp_path / "out"
    convert_json(MODELS / "llama", out, "--no-eval")
    before = digest(out)
    message = error_of(convert(MODELS / "llama", out), 7)
    assert "out" in message and "--overwrite" in message
    assert digest(out) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    error_of(convert(MODELS / "llama", tmp_path / "mine", "--overwrite"), 7)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"
    convert_json(MODELS / "llama", out, "--no-eval", "--overwrite", "--target-bpw", "6")
    assert digest(out) != before


def test_output_over_the_input_is_refused(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODELS / "llama", model)
    before = digest(model)
    for out in [model, model / "sub", tmp_path / "model" / ".."]:
        assert convert(model, out, "--overwrite").returncode not in (0, 1)
    assert digest(model) == before


def test_the_input_is_not_modified(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODELS / "qwen2", model)
    before = digest(model)
    convert_json(model, tmp_path / "out")
    assert digest(model) == before


@pytest.mark.parametrize("limit", [1000, 30_000, 200_000])
def test_full_disk_leaves_nothing_under_the_name(limit, tmp_path):
    out = tmp_path / "out"
    result = convert(MODELS / "llama", out,
                     preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert result.returncode not in (0, 1), result.stderr
    message = error_of(result, result.returncode)
    assert "out" in message
    assert not out.exists()
    convert_json(MODELS / "llama", out, "--no-eval")  # what was left behind is no obstacle


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="needs to mount a file system")
def test_real_full_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        result = convert(MODELS / "llama", disk / "out")
        assert result.returncode not in (0, 1), result.stderr
        assert "out" in error_of(result, result.returncode)
        assert not (disk / "out").exists()
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_second_convert_into_the_same_directory(tmp_path):
    out = tmp_path / "out"
    first = subprocess.Popen([BINARY, "convert", MODELS / "smollm3", "-o", out, "--calibration-sequences", "64",
                              "--calibration-length", "64", "--no-eval"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "out.partial").exists() and first.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert first.poll() is None, "the first run ended too soon for this test"
        message = error_of(convert(MODELS / "smollm3", out), 7)
        assert "another" in message
    finally:
        _, stderr = first.communicate(timeout=300)
    assert first.returncode == 0, stderr
    assert (out / "config.json").exists()


# --- kills ------------------------------------------------------------------------------------------------------------


def test_killed_at_any_time_goes_on_to_the_same_bytes(tmp_path):
    args = ["--candidate-bits", "3,4,8", "--calibration-sequences", "24", "--calibration-length", "64", "--no-eval",
            "--no-progress"]
    whole = tmp_path / "whole"
    start = time.monotonic()
    result = run("convert", MODELS / "smollm3", "-o", whole, *args)
    assert result.returncode == 0, result.stderr
    duration = time.monotonic() - start
    expected = weights_digest(whole)
    random.seed(5)
    out = tmp_path / "out"
    kills = 0
    for _ in range(12):
        process = subprocess.Popen([BINARY, "convert", MODELS / "smollm3", "-o", out, *args], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=random.uniform(0.05, 0.9) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
            assert not out.exists()
        if out.exists():
            break
    if not out.exists():
        result = run("convert", MODELS / "smollm3", "-o", out, *args)
        assert result.returncode == 0, result.stderr
    assert kills > 0
    assert weights_digest(out) == expected
    assert not (tmp_path / "out.partial").exists()
