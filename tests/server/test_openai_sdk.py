"""The openai package against the server."""

import base64
import json
import math
import struct

import pytest

openai = pytest.importorskip("openai")

TOOL = {"type": "function", "function": {"name": "set_light", "description": "Switches a light",
        "parameters": {"type": "object", "properties": {"on": {"type": "boolean"}, "room": {"enum": ["kitchen", "hall"]}},
                       "required": ["on", "room"], "additionalProperties": False}}}
SCHEMA = {"type": "object", "properties": {"colour": {"enum": ["red", "green"]}, "size": {"type": "integer", "minimum": 0, "maximum": 9}},
          "required": ["colour", "size"], "additionalProperties": False}
HELLO = [{"role": "user", "content": "The sea is"}]


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def ask(client, **fields):
    fields = {"model": "default_model", "messages": HELLO, "max_tokens": 12, **fields}
    return client.chat.completions.create(**fields)


def test_stream_equals_whole(client):
    whole = ask(client, seed=1, temperature=1)
    chunks = list(ask(client, seed=1, temperature=1, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage == whole.usage and chunks[-1].choices == []
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason == "length"
    assert len({c.id for c in chunks}) == 1
    assert whole.usage.completion_tokens == 12 and whole.usage.total_tokens == whole.usage.prompt_tokens + 12


def test_seed_decides(client):
    texts = [ask(client, seed=s, temperature=1.5).choices[0].message.content for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    several = ask(client, seed=1, temperature=1.5, n=3)
    assert [c.index for c in several.choices] == [0, 1, 2]
    assert several.choices[0].message.content == texts[0] and several.choices[1].message.content == texts[2]
    assert several.usage.completion_tokens == 36


def test_n_streamed(client):
    texts = ["", "", ""]
    for chunk in ask(client, seed=1, temperature=1.5, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [c.message.content for c in ask(client, seed=1, temperature=1.5, n=3).choices]


def test_stop(client):
    text = ask(client, max_tokens=40).choices[0].message.content
    stop = text[5:8]
    cut = ask(client, max_tokens=40, stop=[stop, "never seen"])
    assert cut.choices[0].message.content == text[:text.index(stop)] and cut.choices[0].finish_reason == "stop"


def test_logprobs(client):
    choice = ask(client, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert len(tokens) == 12
    assert b"".join(bytes(t.bytes) for t in tokens).decode(errors="replace").startswith(choice.message.content[:5])
    for t in tokens:
        assert len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob >= t.top_logprobs[1].logprob
        assert math.isclose(t.logprob, t.top_logprobs[0].logprob)  # greedy
    streamed = [t for c in ask(client, logprobs=True, top_logprobs=3, stream=True) if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == tokens


def test_logit_bias(client):
    ids = ask(client, logprobs=True, max_tokens=1).choices[0].logprobs.content
    other = ask(client, logprobs=True, max_tokens=1, logit_bias={"50": 100}).choices[0].logprobs.content
    assert ids[0].token != other[0].token


def test_tools_forced(client):
    for choice in ("required", {"type": "function", "function": {"name": "set_light"}}):
        answer = ask(client, tools=[TOOL], tool_choice=choice, max_tokens=60).choices[0]
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        call = answer.message.tool_calls[0]
        arguments = json.loads(call.function.arguments)
        assert call.function.name == "set_light" and set(arguments) == {"on", "room"} and arguments["room"] in ("kitchen", "hall")
    most = 0
    for _ in range(5):  # what comes while the connection is busy is joined
        name, arguments, ids, pieces = "", "", set(), 0
        for chunk in ask(client, tools=[TOOL], tool_choice="required", max_tokens=60, stream=True):
            for call in chunk.choices[0].delta.tool_calls or []:
                name += call.function.name or ""
                arguments += call.function.arguments or ""
                ids.add(call.index)
                pieces += 1
        assert name == "set_light" and json.loads(arguments) and ids == {0}
        most = max(most, pieces)
    assert most > 3  # as they are written


def test_tool_history(client):
    answer = ask(client, tools=[TOOL], messages=HELLO + [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "set_light", "arguments": "{\"on\": true}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "done"}])
    assert answer.choices[0].finish_reason in ("length", "stop")


def test_json_schema(client):
    answer = ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, max_tokens=60)
    value = json.loads(answer.choices[0].message.content)
    assert value["colour"] in ("red", "green") and 0 <= value["size"] <= 9 and answer.choices[0].finish_reason == "stop"


def test_json_schema_of_several_answers(client):
    answer = ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, max_tokens=60, n=4, temperature=1.5, seed=1)
    assert all(json.loads(c.message.content)["colour"] in ("red", "green") for c in answer.choices)


def test_parse(client):
    pydantic = pytest.importorskip("pydantic")

    class Answer(pydantic.BaseModel):
        yes: bool
        count: int = pydantic.Field(ge=0, le=99)

    parsed = client.chat.completions.parse(model="default_model", messages=HELLO, response_format=Answer, max_tokens=60).choices[0].message.parsed
    assert isinstance(parsed, Answer)


def test_json_mode_has_no_endless_blanks(client):
    text = ask(client, response_format={"type": "json_object"}, max_tokens=200, temperature=1, seed=3).choices[0].message.content
    assert "\n\n" not in text and "   " not in text.split('"')[0]


def test_bad_schemas(client):
    for schema in ({"type": "nonsense"}, {"not": {}}, {"$ref": "http://127.0.0.1/x"}, {"type": "string", "pattern": "(a"}):
        with pytest.raises(openai.BadRequestError) as error:
            ask(client, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        assert error.value.param == "response_format"


def test_completions_echo_and_logprobs(client):
    answer = client.completions.create(model="default_model", prompt="The sea is", max_tokens=4, echo=True, logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text.startswith("The sea is")
    assert logprobs.token_logprobs[0] is None and len(logprobs.tokens) == answer.usage.prompt_tokens + 4
    assert all(v in top.values() for v, top in zip(logprobs.token_logprobs[1:], logprobs.top_logprobs[1:]))
    # A text scored as a prompt gets the numbers that it had when it was generated.
    scored = client.completions.create(model="default_model", prompt=answer.choices[0].text, max_tokens=0, echo=True, logprobs=2).choices[0].logprobs
    assert scored.tokens == logprobs.tokens
    assert all(abs(a - b) < 0.05 for a, b in zip(scored.token_logprobs[1:], logprobs.token_logprobs[1:]))


def test_completions_of_ids_and_batches(client, server):
    ids = server.post("/tokenize", {"prompt": "The sea is"})[1]["tokens"]
    one = client.completions.create(model="default_model", prompt=ids, max_tokens=6).choices[0].text
    answer = client.completions.create(model="default_model", prompt=[ids, ids], n=2, max_tokens=6, seed=1)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3] and {c.text for c in answer.choices} == {one}
    streamed = client.completions.create(model="default_model", prompt=ids, max_tokens=6, stream=True)
    assert "".join(c.choices[0].text for c in streamed) == one


def test_embeddings(client):
    floats = client.embeddings.create(model="default_model", input=["the sea", "the land"], encoding_format="float")
    coded = client.embeddings.create(model="default_model", input=["the sea", "the land"])  # base64 on the wire
    assert [d.index for d in floats.data] == [0, 1]
    for a, b in zip(floats.data, coded.data):
        vector = b.embedding if isinstance(b.embedding, list) else struct.unpack("<%df" % len(a.embedding), base64.b64decode(b.embedding))
        assert all(math.isclose(x, y, abs_tol=1e-6) for x, y in zip(a.embedding, vector))
        assert math.isclose(sum(x * x for x in a.embedding), 1, abs_tol=1e-4)


def test_responses(client):
    whole = client.responses.create(model="default_model", input="The sea is", max_output_tokens=12, instructions="Be brief.")
    assert whole.status == "incomplete" and whole.incomplete_details.reason == "max_output_tokens"
    seen = list(client.responses.create(model="default_model", input="The sea is", max_output_tokens=12, instructions="Be brief.", stream=True))
    assert [e.sequence_number for e in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.incomplete" and seen[-1].response.output_text == whole.output_text
    text = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    with client.responses.stream(model="default_model", input="The sea is", max_output_tokens=60, text=text) as stream:
        done = [e for e in stream if e.type == "response.output_text.done"]
        final = stream.get_final_response()
    assert json.loads(final.output_text)["colour"] and done[0].item_id == final.output[0].id
    call = client.responses.create(model="default_model", input="Light!", tool_choice="required",
                                   tools=[{"type": "function", "name": "set_light", "parameters": TOOL["function"]["parameters"]}]).output[0]
    assert call.type == "function_call" and json.loads(call.arguments)["room"]
    client.responses.create(model="default_model", max_output_tokens=4, input=[
        {"role": "user", "content": "Light!"}, {"type": "function_call", "call_id": call.call_id, "name": "set_light", "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "done"}])
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="default_model", input="x", previous_response_id="resp_1")


def test_models(client):
    assert [m.id for m in client.models.list()][0] == "qwen2"
    assert client.models.retrieve("qwen2").id == "qwen2"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a/b/c")
    with pytest.raises(openai.NotFoundError) as error:
        ask(client, model="gpt-9")
    assert error.value.code == "model_not_found"


def test_cancel(client, server):
    stream = ask(client, max_tokens=2000, stream=True, extra_body={"ignore_eos": True})
    next(iter(stream))
    before = server.stats()["cancelled"]
    stream.close()
    assert server.wait_idle()["cancelled"] == before + 1


def test_context_length(client):
    with pytest.raises(openai.BadRequestError) as error:
        ask(client, messages=[{"role": "user", "content": "sea " * 9000}])
    assert error.value.code == "context_length_exceeded"
