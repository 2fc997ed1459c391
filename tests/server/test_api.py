"""Endpoints outside the SDKs, and fields that are refused."""

import json

import pytest
import talker
from serving import Server, events, http


def test_tokenize_both_ways(server):
    for key in ("prompt", "content"):
        tokens = server.post("/tokenize", {key: "The sea is wide"})[1]["tokens"]
        assert server.post("/detokenize", {"tokens": tokens})[1]["prompt"].endswith("The sea is wide")
    info = server.get("/tokenizer_info")[1]
    assert info["eos_token"] and "im_start" in info["chat_template"]


@pytest.mark.parametrize("path,body,param", [
    ("/v1/completions", {"prompt": "x", "suffix": "y"}, "suffix"), ("/v1/completions", {"prompt": "x", "best_of": 3}, "best_of"),
    ("/v1/completions", {"prompt": []}, "prompt"), ("/v1/completions", {"prompt": [99999999]}, "prompt"), ("/v1/completions", {"prompt": [-1]}, "prompt"),
    ("/v1/completions", {"prompt": [1.5]}, "prompt"), ("/v1/completions", {"prompt": "x", "max_tokens": 0}, "max_tokens"), ("/v1/completions", {}, "prompt"),
    ("/v1/completions", {"prompt": "x", "logprobs": 21}, "logprobs"), ("/v1/embeddings", {"input": ""}, "input"), ("/v1/embeddings", {}, "input"),
    ("/v1/embeddings", {"input": "x", "encoding_format": "int8"}, "encoding_format"), ("/v1/embeddings", {"input": "x", "dimensions": 0}, "dimensions"),
    ("/v1/responses", {}, "input"), ("/v1/responses", {"input": "x", "truncation": "auto"}, "truncation"), ("/v1/responses", {"input": [{"type": "computer_call"}]}, "input[0].type"),
    ("/v1/responses", {"input": "x", "store": True}, "store"), ("/detokenize", {"tokens": ["a"]}, "tokens"), ("/tokenize", {}, "prompt")])
def test_refused_by_name(server, path, body, param):
    status, answer = server.post(path, {"model": "default_model", **body})
    assert status == 400 and answer["error"]["param"] == param, answer


@pytest.mark.parametrize("path,body", [("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}), ("/v1/completions", {"prompt": "x"}),
                                       ("/v1/embeddings", {"input": "x"}), ("/v1/responses", {"input": "x"})])
def test_a_model_must_be_named(server, path, body):
    for model in ({}, {"model": None}, {"model": ""}):
        status, answer = server.post(path, {**body, **model})
        assert status == 400 and answer["error"]["param"] == "model" and "qwen2" in answer["error"]["message"], answer


def test_unknown_fields_are_told(server):
    data = server.raw(http("/v1/chat/completions", {"model": "default_model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "temprature": 1}, Connection="close"))
    assert b"x-optiq-ignored: temprature" in data


def test_paths_without_v1_and_methods(server):
    assert server.post("/chat/completions", {"model": "default_model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1})[0] == 200
    assert server.get("/v1/chat/completions")[0] == 405
    assert server.get("/nothing")[0] == 404
    assert server.get("/openapi.json")[1]["paths"]["/v1/messages"]


def test_page(server):
    data = server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").decode()
    assert " 200 " in data.split("\r\n")[0] and "default-src 'none'" in data and "http" not in data.split("\r\n\r\n", 1)[1]
    for name in ("app.js", "api.js", "markdown.js", "model.js", "style.css"):
        assert server.get("/web/" + name)[0] == 200
    assert server.get("/web/../app.js")[0] == 404
    info = server.get("/props")[1]["model_info"]
    assert info["params"] > 0 and {m["bits"] for m in info["modules"]}


def test_reasoning_is_parsed_from_what_comes(server):
    # The model says nonsense; what is looked at is that every byte of the answer arrives in one of the fields.
    whole = server.chat(max_tokens=64, temperature=1.2, seed=4)["choices"][0]
    data = server.raw(http("/v1/chat/completions", {"model": "default_model", "messages": [{"role": "user", "content": "The sea is"}], "max_tokens": 64, "temperature": 1.2, "seed": 4, "stream": True},
                           Connection="close")).decode()
    body = "".join(line for line in data.split("\r\n") if line.startswith("data: ") or line.startswith("\n"))
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in events(data) if c.get("choices"))
    assert text == whole["message"]["content"] and body


# Stop strings are looked for in the answer, not in what the model thinks before it.
def test_stop_strings_and_thoughts(tmp_path):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if think %}{{ '<think>' }}{% endif %}{# </think> #}"
    with Server("--temp", 0, model=talker.make(tmp_path / "talker"), template=template) as server:
        message = server.chat(stop=["i"])["choices"][0]["message"]
        assert message["content"] == "H" and "reasoning" not in message
        for stream in (False, True):
            body = {"model": "default_model", "messages": [{"role": "user", "content": "x"}], "stop": ["i"], "chat_template_kwargs": {"think": True}, "stream": stream}
            text = server.post("/v1/chat/completions", body)[1]
            if stream:
                assert "".join(c["choices"][0]["delta"].get("reasoning", "") for c in events(text) if c["choices"]) == "Hi."
            else:
                assert text["choices"][0]["message"]["reasoning"] == "Hi." and text["choices"][0]["finish_reason"] == "stop"


def test_head_and_http_1_0(server):
    assert server.raw(b"HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").endswith(b"\r\n\r\n")
    data = server.raw(b"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    assert b"chunked" not in data and data.rstrip().endswith(b"data: [DONE]")


BODY = json.dumps({"model": "default_model", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "stream": True}).encode()
