#!/usr/bin/env python3
"""The announcement's table at a size that runs anywhere: what quantization costs a model that solves word problems.

  bench/gemma4_mini.py MODEL [--calibration FILE] [--work DIR] [--json FILE]

MODEL: a small trained model of the Gemma-4 architecture with problems_test.jsonl ({question, answer} with "#### N" at the end).
Compares, on all problems (greedy, exact arithmetic): the float model; stock rounding (mx.quantize's, group 64, or 32 where 64 does not
divide) at 4 and 3 bits; and optiq's mixed model in exactly as many bytes as the 3-bit one. KL(float || model) is over the tokens of the
first --kl-problems worked answers. p: McNemar's exact test, mixed against stock 3-bit, on the same problems.
--calibration: JSONL of {"messages"} for the sweep, not the test problems; default: optiq's own text.
"""
import argparse
import json
import math
import os
import pathlib
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from safetensors.numpy import load_file
from transformers import AutoTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[1]
OPTIQ = os.environ.get("OPTIQ_BINARY", str(ROOT / "build/release/optiq"))


def run(*args, threads=0):
    env = dict(os.environ, OPTIQ_THREADS=str(threads)) if threads else None
    done = subprocess.run([OPTIQ, *map(str, args)], capture_output=True, text=True, env=env)
    if done.returncode != 0:
        raise SystemExit(f"optiq {' '.join(map(str, args))}\n{done.stderr}")
    return done.stdout


def number(text):
    found = re.findall(r"####\s*(-?[\d,]+)", text)
    return found[-1].replace(",", "") if found else None


def answers(model, problems):
    """For every problem: is the generated answer right?"""
    def one(problem):
        out = run("generate", model, "--exact", "--temp", "0", "--prompt", problem["question"], "--max-tokens", 96, "--json", "--quiet", threads=1)
        return number(json.loads(out)["text"]) == number(problem["answer"])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, problems))


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def answer_logprobs(model, documents, work):
    """Log-probabilities at the positions that predict the answers' tokens, one array per document."""
    def one(i):
        ids, begin = documents[i]
        source, target = work / f"{i}.json", work / f"{i}.safetensors"
        source.write_text(json.dumps(ids))
        run("logits", model, "--ids", source, "--out", target, "--quiet", threads=1)
        return log_softmax(load_file(target)["logits"][begin - 1 : -1])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(one, range(len(documents))))


def mean_kl(reference, other):
    rows = [(np.exp(p) * (p - q)).sum(-1) for p, q in zip(reference, other)]
    rows = np.concatenate(rows)
    return rows.mean(), rows.std(ddof=1) / math.sqrt(len(rows))


def mcnemar(a, b):
    """Exact two-sided p for paired right/wrong outcomes; also how often only a, only b was right."""
    only_a = sum(x and not y for x, y in zip(a, b))
    only_b = sum(y and not x for x, y in zip(a, b))
    n, k = only_a + only_b, min(only_a, only_b)
    p = min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    return p, only_a, only_b


def stock_plan(modules, bits):
    """What mx.quantize makes of every matrix at one width; routers at 8 bits, as mlx-lm has them."""
    layers = {}
    for module in modules:
        inputs, path = module["shape"][-1], module["layer_name"]
        group = 64 if inputs % 64 == 0 else 32
        router = path.endswith((".router.proj", ".mlp.gate"))
        layers[path] = {"bits": 8 if router else bits, "group_size": group, "encoder": "rtn"} if inputs % group == 0 else False
    return {"version": 1, "base_model": "", "default": {"bits": bits, "group_size": 64}, "layers": layers}


def weight_bytes(model):
    return sum(f.stat().st_size for f in pathlib.Path(model).glob("model*.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--calibration", type=pathlib.Path)
    parser.add_argument("--calibration-sequences", type=int, default=16)
    parser.add_argument("--calibration-length", type=int, default=128)
    parser.add_argument("--candidate-bits", default="2,3,4,5,6,8")
    parser.add_argument("--group-size", default="64,32")
    parser.add_argument("--problems", type=int, default=500)
    parser.add_argument("--kl-problems", type=int, default=100)
    parser.add_argument("--work", type=pathlib.Path)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    holder = tempfile.TemporaryDirectory()
    work = args.work or pathlib.Path(holder.name)
    work.mkdir(parents=True, exist_ok=True)

    problems = [json.loads(line) for line in open(args.model / "problems_test.jsonl")][: args.problems]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    documents = []
    for p in problems[: args.kl_problems]:
        user = [{"role": "user", "content": p["question"]}]
        prompt = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
        begin = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        documents.append((tokenizer(prompt + p["answer"] + "<turn|>", add_special_tokens=False).input_ids, begin))

    calibration = ["--calibration-sequences", args.calibration_sequences, "--calibration-length", args.calibration_length]
    if args.calibration:
        calibration += ["--calibration", args.calibration]
    common = ["--no-eval", "--overwrite", "--force-plan", "--quiet", "--json"]
    table = json.loads(run("sensitivity", args.model, "--candidate-bits", args.candidate_bits, "--group-size", args.group_size, 
                           *calibration, "--json", "--quiet"))
    (work / "sensitivity.json").write_text(json.dumps(table))  # one sweep for the mixed model
    models = {"float (bf16)": args.model}
    for bits in (4, 3):
        (work / f"plan{bits}.json").write_text(json.dumps(stock_plan(table["layers"], bits)))
        run("convert", args.model, "-o", work / f"stock{bits}", "--plan", work / f"plan{bits}.json", *common)
        models[f"stock {bits}-bit"] = work / f"stock{bits}"
    run("convert", args.model, "-o", work / "mixed", "--match-bytes", work / "stock3", "--sensitivity", work / "sensitivity.json",
        "--candidate-bits", args.candidate_bits, "--group-size", args.group_size, *calibration, *common)
    models["optiq, bytes of stock 3-bit"] = work / "mixed"
    assert weight_bytes(work / "mixed") <= weight_bytes(work / "stock3")

    right, rows, reference = {}, [], None
    for name, model in models.items():
        right[name] = answers(model, problems)
        logprobs = answer_logprobs(model, documents, work)
        reference = reference or logprobs
        kl, error = mean_kl(reference, logprobs)
        rows.append({"model": name, "bytes": weight_bytes(model), "accuracy": sum(right[name]) / len(problems), "kl": kl, "kl_stderr": error})
    p, only_mixed, only_stock = mcnemar(right["optiq, bytes of stock 3-bit"], right["stock 3-bit"])
    accuracy = [r["accuracy"] for r in rows]
    won_back = (accuracy[3] - accuracy[2]) / (accuracy[0] - accuracy[2]) if accuracy[0] != accuracy[2] else float("nan")
    print(f"| model | bytes | accuracy ({len(problems)} problems) | mean KL |\n|---|---|---|---|")
    for r in rows:
        print(f"| {r['model']} | {r['bytes']:,} | {100 * r['accuracy']:.1f} % | {r['kl']:.5f} ± {r['kl_stderr']:.5f} |")
    print(f"\nmixed against stock 3-bit: {only_mixed} problems only right in mixed, {only_stock} only in stock; McNemar p = {p:.2g}; "
          f"{100 * won_back:.0f} % of the lost accuracy won back")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "p": p, "only_mixed": only_mixed, "only_stock": only_stock, "won_back": won_back}, indent=1))


if __name__ == "__main__":
    main()
