"""lm-eval over HTTP, on a task of a few lines and without the network: its log-likelihoods are those that mlx-lm computes in the same process."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from serving import MODELS, Server

if importlib.util.find_spec("lm_eval") is None:  # importing it takes seconds
    pytest.skip("lm-eval is not installed", allow_module_level=True)

ITEMS = [{"q": f"The {thing} is", "choices": [" deep and wide", " cold", " 1, 2, 3"], "answer": 1} for thing in ("sea", "night", "old harbour")]
YAML = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: {kind}
doc_to_text: "{{{{q}}}}"
target_delimiter: ""
{more}
"""


def run(server, tmp_path, kind, endpoint, task, *args, **model_args):
    out = tmp_path / kind
    arguments = {"model": "llama", "base_url": f"{server.url}/v1/{endpoint}", "num_concurrent": 2, "max_retries": 1, **model_args}
    done = subprocess.run([sys.executable, "-m", "lm_eval", "--model", kind, "--model_args", ",".join(f"{k}={v}" for k, v in arguments.items()), "--tasks", task,
                           "--include_path", tmp_path, "--output_path", out, "--log_samples", *args], capture_output=True, text=True, timeout=180, cwd=tmp_path,
                          stdin=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")})
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for path in out.rglob("samples_*.jsonl") for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def server():
    with Server("--exact", "--temp", 0, model="llama", template=False) as s:
        yield s
        assert s.alive(), s.text()


@pytest.fixture
def tasks(tmp_path):
    data = tmp_path / "items.jsonl"
    data.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    for name, kind, more in (("small_choice", "multiple_choice", 'doc_to_choice: "{{choices}}"\ndoc_to_target: answer\nmetric_list:\n  - metric: acc'),
                             ("small_text", "generate_until", 'doc_to_target: "x"\ngeneration_kwargs:\n  until: ["zzz"]\n  max_gen_toks: 8\n  temperature: 0\n'
                                                              'metric_list:\n  - metric: exact_match')):
        (tmp_path / f"{name}.yaml").write_text(YAML.format(name=name, data=data, kind=kind, more=more))
    return tmp_path


def mlx_logprobs(ids, start):
    """Of the ids from `start` on."""
    mx = pytest.importorskip("mlx.core")
    from mlx.utils import tree_map
    from mlx_lm import load

    model, _ = load(str(MODELS / "llama"))
    model.update(tree_map(lambda x: x.astype(mx.float32) if x.dtype in (mx.float16, mx.bfloat16) else x, model.parameters()))
    logits = model(mx.array([ids]))[0].astype(mx.float32)
    logits = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return sum(float(logits[i - 1, ids[i]]) for i in range(start, len(ids)))


def test_loglikelihoods(server, tasks):
    samples = run(server, tasks, "local-completions", "completions", "small_choice", tokenizer=MODELS / "llama", add_bos_token=True, max_length=1024)
    assert len(samples) == len(ITEMS)
    sample = min(samples, key=lambda s: s["doc_id"])
    for choice, response in zip(ITEMS[0]["choices"], sample["filtered_resps"]):
        text = ITEMS[0]["q"]
        ids = server.post("/tokenize", {"prompt": text + choice})[1]["tokens"]
        start = len(server.post("/tokenize", {"prompt": text})[1]["tokens"])
        assert float(response[0]) == pytest.approx(mlx_logprobs(ids, start), abs=5e-3)


def test_texts(server, tasks):
    samples = run(server, tasks, "local-chat-completions", "chat/completions", "small_text", "--apply_chat_template")
    assert len(samples) == len(ITEMS)
    for sample in samples:
        want = server.chat(messages=[{"role": "user", "content": sample["doc"]["q"]}], max_tokens=8)["choices"][0]["message"]["content"]
        assert sample["resps"][0][0] == want
