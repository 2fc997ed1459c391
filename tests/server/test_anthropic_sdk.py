"""The anthropic package against the server."""

import json

import pytest

anthropic = pytest.importorskip("anthropic")

TOOL = {"name": "set_light", "description": "Switches a light",
        "input_schema": {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}}
HELLO = [{"role": "user", "content": "The sea is"}]


@pytest.fixture(scope="module")
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def test_stream_equals_whole(client):
    whole = client.messages.create(model="claude-any", max_tokens=12, messages=HELLO, system="Be brief.")
    with client.messages.stream(model="claude-any", max_tokens=12, messages=HELLO, system=[{"type": "text", "text": "Be brief."}]) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].text == whole.content[0].text == text
    assert final.stop_reason == whole.stop_reason == "max_tokens"
    assert final.usage.output_tokens == whole.usage.output_tokens == 12


def test_stop_sequence(client):
    text = client.messages.create(model="claude", max_tokens=40, messages=HELLO).content[0].text
    stop = text[5:8]
    cut = client.messages.create(model="claude", max_tokens=40, messages=HELLO, stop_sequences=[stop])
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == stop and cut.content[0].text == text[:text.index(stop)]


def test_tools(client):
    for choice in ({"type": "any"}, {"type": "tool", "name": "set_light"}):
        answer = client.messages.create(model="claude", max_tokens=60, messages=HELLO, tools=[TOOL], tool_choice=choice)
        assert answer.stop_reason == "tool_use"
        assert isinstance(answer.content[-1].input["on"], bool)
    with client.messages.stream(model="claude", max_tokens=60, messages=HELLO, tools=[TOOL], tool_choice={"type": "any"}) as stream:
        pieces = [e.partial_json for e in stream if e.type == "input_json"]
        final = stream.get_final_message()
    assert json.loads("".join(pieces)) == final.content[-1].input
    use = final.content[-1]
    assert isinstance(use.input["on"], bool)
    again = client.messages.create(model="claude", max_tokens=8, tools=[TOOL], messages=HELLO + [
        {"role": "assistant", "content": [use.model_dump(include={"type", "id", "name", "input"})]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "done"}, {"type": "text", "text": "Thanks"}]}])
    assert again.stop_reason in ("max_tokens", "end_turn")


def test_begun_answer_is_continued(client):
    answer = client.messages.create(model="claude", max_tokens=4, messages=HELLO + [{"role": "assistant", "content": "deep and"}])
    assert answer.content[0].text


def test_count_tokens(client):
    count = client.messages.count_tokens(model="claude", messages=HELLO).input_tokens
    assert count == client.messages.create(model="claude", max_tokens=1, messages=HELLO).usage.input_tokens


def test_errors(client):
    with pytest.raises(anthropic.BadRequestError) as error:
        client.messages.create(model="claude", max_tokens=5, messages=[{"role": "user", "content": [{"type": "image", "source": {}}]}])
    assert error.value.body["error"]["type"] == "invalid_request_error"
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="gpt", max_tokens=5, messages=HELLO)
