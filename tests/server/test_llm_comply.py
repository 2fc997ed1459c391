"""llm-comply's checks of the three protocols. What a text model refuses rightly is expected to be refused."""

import json
import subprocess
import sys

import pytest
import talker
from serving import Server

pytest.importorskip("llm_comply")

# The checks send an image and want a description of it. This is a text model: 400 that names the part.
IMAGES = {"chat-image-input", "anth-image-input", "image-input"}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # The checks want whole answers, which a golden model with its random weights rarely gives.
    with Server("--temp", 0, "--served-model-name", "golden", model=talker.make(tmp_path_factory.mktemp("models") / "talker")) as s:
        assert s.chat()["choices"][0]["message"]["content"] == "Hi."
        yield s
        assert s.alive(), s.text()


@pytest.mark.parametrize("form,checks", [("openai-chat", 9), ("anthropic", 9), ("open-responses", 13)])
def test_protocol(server, form, checks):
    # The harness prints its table and then one JSON object.
    run = subprocess.run([sys.executable, "-m", "llm_comply.cli", "--json", "--base-url", server.url + "/v1", "--model", "golden", "--api-key", "none", "--format", form],
                         capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    results = json.loads(run.stdout[run.stdout.index("{"):])["results"]
    assert len(results) == checks
    wrong = {r["id"]: r for r in results if r["status"] not in ("passed", "skipped", "warning")}
    assert set(wrong) == {r["id"] for r in results} & IMAGES, wrong
