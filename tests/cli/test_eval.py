"""optiq eval as a user meets it."""
import json
import math
import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("OPTIQ_BINARY", str(ROOT / "build" / "release" / "optiq"))
MODELS = ROOT / "tests" / "data" / "goldens" / "models"
SMALL = ("--sequences", "8", "--length", "48")


def run(*args):
    return subprocess.run([BINARY, *map(str, args)], input=b"", capture_output=True, timeout=300)


def evaluate(*args):
    done = run("eval", *args, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(code, part, *args):
    done = run("eval", *args)
    lines = [x for x in done.stderr.decode().splitlines() if x.startswith("optiq: error: ")]
    assert done.returncode == code and len(lines) == 1 and part in lines[0], done.stderr


@pytest.mark.parametrize("name", ["llama", "gemma4_e2b", "qwen3_moe", "lfm2"])
def test_a_model_does_not_differ_from_itself(name):
    result = evaluate(MODELS / name, "--reference", MODELS / name, *SMALL)
    assert result["kl"]["max"] == 0 and result["same_top1"]["mean"] == 1
    assert result["perplexity"] == result["reference_perplexity"] == math.exp(result["nll"]["mean"])
    assert result["scored_tokens"] == 8 * 48


def test_a_quantized_model_differs():
    result = evaluate(MODELS / "llama-4bit", "--reference", MODELS / "llama", *SMALL)
    assert 0 < result["kl"]["median"] < result["kl"]["p99"] <= result["kl"]["max"]
    assert result["kl"]["standard_error"] > 0 and 0 < result["same_top1"]["mean"] < 1


def test_agrees_with_what_convert_measured(tmp_path):
    source, out = MODELS / "qwen3", tmp_path / "out"
    done = run("convert", source, "-o", out, "--target-bpw", "5.5", "--calibration-sequences", "2", "--calibration-length", "64",
               "--no-kv-config", "--group-size", "32", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["optiq_cpp"]["evaluation"]
    (shipped,) = [row for row in rows if row["shipped"]]
    result = evaluate(out, "--reference", source)
    assert result["kl"]["mean"] == pytest.approx(shipped["kl_mean"], rel=1e-3)
    assert result["perplexity"] == pytest.approx(shipped["perplexity"], rel=1e-4)


def test_the_cache_is_part_of_the_model():
    model = MODELS / "llama"
    dense = evaluate(model, "--reference", model, *SMALL)
    coarse = evaluate(model, "--reference", model, *SMALL, "--kv-bits", "2", "--kv-group-size", "32")
    fine = evaluate(model, "--reference", model, *SMALL, "--kv-bits", "8", "--kv-group-size", "32", "--score-tokens", "16")
    assert dense["kl"]["mean"] == 0 < fine["kl"]["mean"] < coarse["kl"]["mean"]
    assert fine["scored_tokens"] == 8 * 16


def test_text_of_ones_own(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The sea was calm and the boats lay still. " * 100)
    result = evaluate(MODELS / "llama", "--text", text, "--sequences", "2", "--length", "32")
    assert result["text"] == str(text) and "kl" not in result


def test_refusals(tmp_path):
    refused(2, "vocabulary", MODELS / "llama", "--reference", MODELS / "gemma3_text")
    refused(2, "score", MODELS / "llama", "--length", "16", "--score-tokens", "17")
    refused(3, "missing.txt", MODELS / "llama", "--text", tmp_path / "missing.txt")
    refused(2, "context", MODELS / "llama", "--length", str(1 << 23))
    refused(2, "kv-bits", MODELS / "llama", "--kv-bits", "7")
