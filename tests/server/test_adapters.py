"""LoRA adapters chosen by each request."""

import concurrent.futures
import math

import numpy as np
import pytest
from safetensors.numpy import load_file
from serving import MODELS, Server

LORA = MODELS.parent / "lora"
GOLDEN = load_file(LORA / "logits.safetensors")  # mlx-lm's, in f32 (tests/oracle/lora_oracle.py)
IDS = [int(i) for i in GOLDEN["ids"]]
HELLO = [{"role": "user", "content": "The sea is"}]


@pytest.fixture(scope="module")
def server():
    with Server("--exact", "--temp", 0, "--adapter", f"a={LORA / 'a_mlx'}", "--adapter", f"b={LORA / 'b_peft'}", "--prompt-cache-bytes", "20MB", model="llama", template=False) as s:
        yield s
        assert s.alive(), s.text()


def chat(server, model, **fields):
    return server.chat(model=model, **fields)["choices"][0]["message"]["content"]


@pytest.mark.parametrize("model,golden", [("llama", "none"), ("a", "a"), ("llama:b", "b"), ("default_model", "none")])
def test_logprobs_are_mlx_lms(server, model, golden):
    status, body = server.post("/v1/completions", {"model": model, "prompt": IDS, "max_tokens": 0, "echo": True, "logprobs": 1})
    assert status == 200 and body["model"] == model
    ours = body["choices"][0]["logprobs"]["token_logprobs"]
    logits = GOLDEN[golden].astype(np.float64)
    for i in range(1, len(IDS)):
        row = logits[i - 1]
        assert math.isclose(ours[i], row[IDS[i]] - np.log(np.exp(row - row.max()).sum()) - row.max(), abs_tol=1e-3)


def test_together_as_alone(server):
    names = ["llama", "a", "b"]
    alone = {}
    for name, mount in (("llama", ()), ("a", ("--adapter", f"a={LORA / 'a_mlx'}")), ("b", ("--adapter", f"b={LORA / 'b_mlx'}"))):
        with Server("--exact", "--temp", 0, *mount, model="llama", template=False) as one:
            alone[name] = chat(one, name, max_tokens=32, ignore_eos=True)
    assert len(set(alone.values())) == 3
    for _ in range(2):  # the second time with what the first left in the prefix cache
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            got = list(pool.map(lambda i: (names[i % 3], chat(server, names[i % 3], max_tokens=32, ignore_eos=True)), range(12)))
        assert all(text == alone[name] for name, text in got)
    assert chat(server, "llama", adapter="a", max_tokens=32, ignore_eos=True) == alone["a"]
    messages = server.post("/v1/messages", {"model": "a", "messages": HELLO, "max_tokens": 8})[1]
    assert messages["model"] == "a" and alone["a"].startswith(messages["content"][0]["text"])
    response = server.post("/v1/responses", {"model": "b", "input": "The sea is", "max_output_tokens": 8})[1]
    assert response["model"] == "b" and alone["b"].startswith(response["output"][0]["content"][0]["text"])


def test_listed(server):
    listed = {m["id"]: m for m in server.get("/v1/models")[1]["data"]}
    assert {"llama", "a", "b"} <= set(listed) and listed["a"]["parent"] == "llama" and listed["llama"]["parent"] is None
    assert server.get("/v1/models/b")[1]["id"] == "b"
    assert server.get("/props")[1]["adapters"] == ["a", "b"]


def test_unknown(server):
    for path, body in (("/v1/chat/completions", {"messages": HELLO}), ("/v1/completions", {"prompt": "x"}), ("/v1/responses", {"input": "x"})):
        for name in ("c", "llama:c", "A"):
            status, answer = server.post(path, {"model": name, **body})
            assert status == 404 and answer["error"]["code"] == "model_not_found" and f"'{name}'" in answer["error"]["message"]
    status, answer = server.post("/v1/chat/completions", {"model": "llama", "adapter": "c", "messages": HELLO})
    assert status == 400 and answer["error"]["param"] == "adapter" and "'c'" in answer["error"]["message"]
    status, answer = server.post("/v1/messages", {"model": "llama:c", "max_tokens": 1, "messages": HELLO})
    assert status == 404 and answer["error"]["type"] == "not_found_error" and "llama:c" in answer["error"]["message"]
    assert server.post("/v1/embeddings", {"model": "a", "input": "x"})[0] == 400
