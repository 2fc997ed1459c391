"""KV options, kv_config.json, saved prompts and kv-cache as a user meets them."""
import json
import os
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("OPTIQ_BINARY", str(ROOT / "build" / "release" / "optiq"))
MODELS = ROOT / "tests" / "data" / "goldens" / "models"
LLAMA, GEMMA = str(MODELS / "llama"), str(MODELS / "gemma3_text")


def run(*args):
    return subprocess.run([BINARY, *map(str, args)], input=b"", capture_output=True, timeout=300)


def generate(*args):
    done = run("generate", *args, "--raw", "--temp", "0", "--max-tokens", "12", "--json", "--quiet", "--ignore-eos")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(code, part, *args):
    done = run(*args)
    lines = [x for x in done.stderr.decode().splitlines() if x.startswith("optiq: error: ")]
    assert done.returncode == code and len(lines) == 1 and part in lines[0], done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize("model", [LLAMA, GEMMA])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_every_width_runs(model, bits):
    result = generate(model, "--prompt", "The sea was calm and the boats lay", "--kv-bits", bits, "--kv-group-size", 32)
    assert len(result["tokens"]) == 12
    cache = result["kv_cache"]
    assert cache["bytes"] < cache["bf16_bytes"]
    assert all(k["format"] == f"{bits}-bit g32" for k in cache["kinds"])


def test_what_cannot_be_applied_is_refused(tmp_path):
    base = ("generate", LLAMA, "--prompt", "x")
    refused(2, "--kv-bits", *base, "--kv-bits", "7")
    refused(2, "--kv-group-size", *base, "--kv-group-size", "32")
    refused(2, "not quantized", *base, "--kv-bits", "16", "--kv-group-size", "32")
    refused(2, "nothing is quantized", *base, "--quantized-kv-start", "5")
    refused(2, "head size", *base, "--kv-bits", "4", "--kv-group-size", "128")
    refused(3, "kv_config.json", *base, "--kv-config", "auto")
    bad = tmp_path / "kv.json"
    bad.write_text('[{"layer_idx": 0, "bits": 7}]')
    refused(2, "layer 0: bits is 7", *base, "--kv-config", bad)
    bad.write_text('[{"layer_idx": 0, "bits": 4, "group_size": 32}]')
    refused(2, "layer 1 is missing", *base, "--kv-config", bad)


def test_saved_prompt(tmp_path):
    cache, text = tmp_path / "p.kv", "The sea was calm and the boats lay on the sand"
    plain = generate(LLAMA, "--prompt", text, "--kv-bits", 8, "--kv-group-size", 32)
    first = generate(LLAMA, "--prompt", text, "--kv-bits", 8, "--kv-group-size", 32, "--prompt-cache", cache)
    again = generate(LLAMA, "--prompt", text, "--prompt-cache", cache)
    assert first["tokens"] == plain["tokens"] == again["tokens"]
    assert first["cached_tokens"] == 0 and again["cached_tokens"] == again["prompt_tokens"] - 1
    longer = generate(LLAMA, "--prompt", text + " and then", "--prompt-cache", cache)
    assert longer["cached_tokens"] >= again["prompt_tokens"] - 2
    base = ("generate", LLAMA, "--prompt", text, "--prompt-cache", cache)
    refused(2, "leave the --kv options out", *base, "--kv-bits", "8")
    refused(2, "another model", "generate", str(MODELS / "mistral"), "--prompt", text, "--prompt-cache", cache)
    data = cache.read_bytes()
    cache.write_bytes(data[: len(data) // 2])
    refused(4, "p.kv", *base)
    cache.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    refused(4, "checksum", *base)


@pytest.mark.parametrize("model", [LLAMA, GEMMA])
def test_kv_cache_recommends_and_generate_reads_it(model, tmp_path):
    out = tmp_path / "m"
    shutil.copytree(model, out)
    done = run("kv-cache", out, "--calibration-sequences", "1", "--calibration-length", "96", "--score-tokens", "16", "--context", "512",
               "--candidate-bits", "3,4,8", "--group-size", "32", "--target-bits", "4.5", "--dense-recent", "8", "-o", out, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["bytes"] <= result["budget_bytes"] < result["bf16_bytes"]
    assert {c["name"] for c in result["checks"]} >= {"plan", "uniform 4-bit"}
    stock = json.loads((out / "kv_config.json").read_text())
    assert [e["layer_idx"] for e in stock] == [e["layer_idx"] for e in result["layers"]]
    assert all(e["bits"] in (3, 4, 8) for e in stock)
    for config in ("auto", out / "kv_config.json", out / "optiq_kv_config.json"):
        assert len(generate(out, "--prompt", "The sea", "--kv-config", config)["tokens"]) == 12
    refused(2, "another model", "generate", str(MODELS / "qwen3"), "--prompt", "x", "--kv-config", out / "optiq_kv_config.json")


def test_bench_with_a_quantized_cache():
    args = ("bench", LLAMA, "--prefill", "8", "--depth", "0,16", "--batch", "2", "--steps", "2", "--repeats", "1", "--json", "--quiet")
    plain = json.loads(run(*args).stdout)
    small = json.loads(run(*args, "--kv-bits", "4", "--kv-group-size", "32").stdout)
    assert [c["kind"] for c in small["cases"]] == ["prefill", "decode", "decode", "batch"]
    assert small["kv_cache"]["bytes"] < plain["kv_cache"]["bytes"] == plain["kv_cache"]["bf16_bytes"]
    assert small["weight_bytes_per_token"] == plain["weight_bytes_per_token"] > 0
    refused(2, "kv-bits", *args, "--kv-bits", "7")
