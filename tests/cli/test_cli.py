"""The command line as a user meets it: exit codes, streams, JSON shapes, determinism.

Runs the program named by OPTIQ_BINARY (default build/release/optiq) on the models of tests/data/goldens.
"""

import json
import os
import pathlib
import pty
import select
import shutil
import signal
import struct
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("OPTIQ_BINARY", str(ROOT / "build" / "release" / "optiq"))
GOLDENS = ROOT / "tests" / "data" / "goldens"
MODELS = GOLDENS / "models"
LLAMA = str(MODELS / "llama")
COMMANDS = ["convert", "sensitivity", "kv-cache", "generate", "chat", "logits", "eval", "bench", "inspect"]


def run(*args, stdin=b"", **kwargs):
    if isinstance(stdin, str):
        stdin = stdin.encode()
    return subprocess.run([BINARY, *map(str, args)], input=stdin, capture_output=True, timeout=300, **kwargs)


def error_of(result, code):
    """The message of a failed run: one line, nothing on stdout."""
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.decode().splitlines() if line.startswith("optiq: error: ")]
    assert len(lines) == 1, result.stderr
    assert "terminate called" not in result.stderr.decode()
    return lines[0]


def generate_json(model, *args, prompt="The sea", **kwargs):
    """Greedy unless the arguments say how to sample: the golden models' own default is to sample."""
    if not {"--temp", "--sampling", "--seed"} & set(args):
        args = ("--temp", "0", *args)
    result = run("generate", model, "--prompt", prompt, "--json", "--quiet", *args, **kwargs)
    assert result.returncode == 0, result.stderr
    assert result.stderr == b""
    return json.loads(result.stdout)


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return {k: (v, data[8 + size + v["data_offsets"][0] : 8 + size + v["data_offsets"][1]]) for k, v in header.items()}


def golden_prompts(name):
    return json.loads((GOLDENS / "expected" / name / "prompts.json").read_text())["prompts"]


# --- help, version, usage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_has_examples(command):
    result = run(command, "--help")
    assert result.returncode == 0 and result.stderr == b""
    lines = result.stdout.decode().splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 130
    assert sum(line.strip().startswith("optiq " + command) or "| optiq " + command in line for line in lines) >= 2
    assert run("help", command).stdout == result.stdout


def test_program_help_lists_the_commands():
    text = run("--help").stdout.decode()
    for command in COMMANDS:
        assert command in text


def test_version():
    text = run("--version").stdout.decode()
    assert text.startswith("optiq 0.")
    assert "build:" in text


def test_help_exit_codes():
    text = run("help", "exit-codes").stdout.decode()
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 130, 141):
        assert any(line.split()[:1] == [str(code)] for line in text.splitlines())


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["inspect"],
        ["inspect", LLAMA, "--nonsense"],
        ["inspect", LLAMA, "extra"],
        ["inspect", LLAMA, "--threads", "2"],
        ["chat", LLAMA, "--json"],
        ["generate", LLAMA, "--prompt", "x", "--quiet", "--verbose"],
        ["generate", LLAMA, "--prompt", "x", "--threads", "0"],
        ["generate", LLAMA, "--prompt", "x", "--max-tokens", "0"],
        ["generate", LLAMA, "--prompt", "x", "--max-tokens", "many"],
        ["generate", LLAMA, "--prompt", "x", "--temp", "-1"],
        ["generate", LLAMA, "--prompt", "x", "--temp", "nan"],
        ["generate", LLAMA, "--prompt", "x", "--top-p", "2"],
        ["generate", LLAMA, "--prompt", "x", "--logit-bias", "5"],
        ["generate", LLAMA, "--prompt", "x", "--logit-bias", "999999=1"],
        ["generate", LLAMA, "--prompt", "x", "--stop", ""],
        ["generate", LLAMA, "--prompt", "x", "--raw", "--system", "s"],
        ["generate", LLAMA, "--prompt", "x", "--prompt-file", "y"],
        ["generate", LLAMA, "--prompt", "x", "--sampling", "hot"],
        ["generate", LLAMA, "--prompt", "x", "--chat-template-args", "[]"],
        ["logits", LLAMA, "--out", "x.safetensors"],
        ["logits", LLAMA, "--prompt", "x"],
        ["help", "nonsense"],
    ],
)
def test_usage_errors(args, tmp_path):
    result = run(*args, cwd=tmp_path)
    error_of(result, 2)
    assert result.stdout == b""
    assert list(tmp_path.iterdir()) == []


def test_unknown_option_is_named():
    assert "--nonsense" in error_of(run("inspect", LLAMA, "--nonsense"), 2)


# --- missing and damaged models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["inspect"], ["generate", "--prompt", "x"], ["chat"], ["logits", "--prompt", "x", "--out", "o"]])
def test_missing_model(command, tmp_path):
    message = error_of(run(*command, "no/such/model", cwd=tmp_path), 3)
    assert "no/such/model" in message
    assert list(tmp_path.iterdir()) == []


def copy_model(tmp_path, name="llama"):
    target = tmp_path / name
    shutil.copytree(MODELS / name, target)
    for path in target.iterdir():
        path.chmod(0o644)
    return target


@pytest.mark.parametrize("command", [["inspect"], ["generate", "--prompt", "x"]])
def test_truncated_weights(command, tmp_path):
    model = copy_model(tmp_path)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "model.safetensors" in error_of(run(*command, model), 4)


def test_config_that_is_no_json(tmp_path):
    model = copy_model(tmp_path)
    (model / "config.json").write_text("{")
    assert "config.json" in error_of(run("inspect", model), 4)


def test_config_that_contradicts_the_tensors(tmp_path):
    model = copy_model(tmp_path)
    config = json.loads((model / "config.json").read_text())
    config["intermediate_size"] += 32
    (model / "config.json").write_text(json.dumps(config))
    result = run("inspect", model)
    assert result.returncode in (2, 4) and result.stdout == b""
    assert "mlp" in result.stderr.decode()


def test_unknown_architecture_is_shown_with_exit_code_8(tmp_path):
    model = copy_model(tmp_path)
    config = json.loads((model / "config.json").read_text())
    config["model_type"] = "abacus\x1b[31m"
    (model / "config.json").write_text(json.dumps(config))
    result = run("inspect", model)
    error_of(result, 8)
    assert b"abacus" in result.stdout
    assert b"\x1b" not in result.stdout + result.stderr
    error_of(run("generate", model, "--prompt", "x"), 8)


def test_damaged_generation_config(tmp_path):
    model = copy_model(tmp_path)
    (model / "generation_config.json").write_text('{"eos_token_id": "x"}')
    assert "eos_token_id" in error_of(run("generate", model, "--prompt", "x"), 2)


# --- inspect ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(p.name for p in MODELS.iterdir()))
def test_inspect_agrees_with_the_files(name):
    model = MODELS / name
    result = run("inspect", model, "--tensors", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    config = json.loads((model / "config.json").read_text())
    assert report["architecture"] == config["model_type"]
    assert report["num_layers"] == config.get("text_config", config)["num_hidden_layers"]
    tensors = {}
    for path in model.glob("*.safetensors"):
        tensors.update(read_safetensors(path))
    # Multimodal checkpoints in transformers' layout are shown by mlx-lm's names; they hold more than the text model's parameters.
    multimodal = any(name.startswith("model.language_model.") for name in tensors)
    if not multimodal:
        assert {t["name"] for t in report["tensors"]} == set(tensors)
        for t in report["tensors"]:
            entry, data = tensors[t["name"]]
            assert (t["shape"], t["dtype"], t["bytes"]) == (entry["shape"], entry["dtype"], len(data))
        assert report["totals"]["bytes"] == sum(len(data) for _, data in tensors.values())
    assert report["totals"]["bytes"] == sum(k["bytes"] for k in report["kinds"].values())
    # Parameters are those of the float model, however the weights are stored. transformers does not count buffers.
    base = name.split("-")[0]
    expected = json.loads((GOLDENS / "expected" / base / "report.json").read_text())["n_params"]
    scalars = sum(t["name"].endswith(".layer_scalar") for t in report["tensors"])
    assert report["totals"]["params"] == expected + scalars or (multimodal and report["totals"]["params"] > expected + scalars)
    quantization = config.get("quantization")
    if quantization is None:
        assert report["quantizable"]["bits_per_weight"] in (16, 32)
        return
    assert report["quantizable"]["bits_per_weight"] < 16
    for t in report["tensors"]:
        if not t["name"].endswith(".scales"):
            continue
        path = t["name"].removesuffix(".scales")
        entry = quantization.get(path, quantization)
        assert (t["bits"], t["group_size"]) == (entry["bits"], entry["group_size"])


def test_inspect_text():
    result = run("inspect", LLAMA, "--tensors")
    text = result.stdout.decode()
    assert result.returncode == 0 and result.stderr == b""
    assert "llama" in text and "F16 matrices" in text and "model.layers.0.mlp.up_proj.weight" in text


def test_inspect_single_file():
    report = json.loads(run("inspect", LLAMA + "/model.safetensors", "--json").stdout)
    assert report["layout"] == "safetensors" and report["totals"]["tensors"] > 10
    assert "architecture" not in report


# --- generate ---------------------------------------------------------------------------------------------------------


def safe_prefix(prompt, key="greedy", tolerance=1e-3):
    """The tokens up to the first step whose margin is too small to decide."""
    tokens = []
    for token, margin in zip(prompt[key], prompt["greedy_margins"]):
        if margin < tolerance:
            break
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("name", ["gemma3_text", "llama", "mistral", "qwen2", "qwen3", "smollm3"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_greedy_continuation_is_the_golden_one(name, index):
    prompt = golden_prompts(name)[index]
    answer = generate_json(MODELS / name, "--raw", "--exact", "--temp", "0", "--ignore-eos", "--max-tokens", "32", prompt=prompt["text"])
    expected = safe_prefix(prompt, tolerance=5e-3 if name == "gemma3_text" else 1e-3)
    assert answer["prompt_tokens"] == len(prompt["ids"])
    assert len(expected) > 0
    assert answer["tokens"][: len(expected)] == expected
    assert answer["finish_reason"] == "length" and answer["generated_tokens"] == 32
    assert answer["seed"] is None


def test_same_seed_same_text():
    sampling = ["--raw", "--temp", "1.2", "--top-p", "0.95", "--top-k", "40", "--min-p", "0.01", "--max-tokens", "24", "--ignore-eos"]
    first = generate_json(LLAMA, *sampling, "--seed", "7")
    again = generate_json(LLAMA, *sampling, "--seed", "7", "--threads", "1")
    other = generate_json(LLAMA, *sampling, "--seed", "8")
    assert first["tokens"] == again["tokens"] and first["seed"] == 7
    assert first["tokens"] != other["tokens"]


def test_a_drawn_seed_is_reported_and_repeats():
    sampling = ["--raw", "--temp", "1.5", "--max-tokens", "16", "--ignore-eos"]
    first = generate_json(LLAMA, *sampling)
    assert generate_json(LLAMA, *sampling, "--seed", first["seed"])["tokens"] == first["tokens"]


def test_sampling_of_the_model():
    # The golden models say do_sample, temperature 1, top_k 64, top_p 0.95.
    by_default = generate_json(LLAMA, "--raw", "--seed", "3", "--max-tokens", "16", "--ignore-eos")
    by_file = generate_json(LLAMA, "--raw", "--sampling", "model", "--seed", "3", "--max-tokens", "16", "--ignore-eos")
    by_hand = generate_json(
        LLAMA, "--raw", "--temp", "1", "--top-k", "64", "--top-p", "0.95", "--seed", "3", "--max-tokens", "16", "--ignore-eos"
    )
    greedy = generate_json(LLAMA, "--raw", "--sampling", "greedy", "--max-tokens", "16", "--ignore-eos")
    cold = generate_json(LLAMA, "--raw", "--temp", "0", "--max-tokens", "16", "--ignore-eos")
    assert by_default["tokens"] == by_file["tokens"] == by_hand["tokens"] != greedy["tokens"] == cold["tokens"]


def test_prompt_sources_agree(tmp_path):
    (tmp_path / "prompt.txt").write_text("The sea")
    common = ["generate", LLAMA, "--raw", "--temp", "0", "--max-tokens", "8", "--quiet"]
    outputs = [
        run(*common, "--prompt", "The sea"),
        run(*common, "--prompt-file", tmp_path / "prompt.txt"),
        run(*common, stdin="The sea"),
    ]
    assert [r.returncode for r in outputs] == [0, 0, 0]
    assert outputs[0].stdout == outputs[1].stdout == outputs[2].stdout
    assert outputs[0].stdout.endswith(b"\n")
    text = generate_json(LLAMA, "--raw", "--max-tokens", "8")["text"]
    assert outputs[0].stdout.decode() == text + "\n"


def test_statistics_go_to_stderr():
    result = run("generate", LLAMA, "--prompt", "The sea", "--max-tokens", "4")
    assert b"tok/s" in result.stderr and b"tok/s" not in result.stdout


def test_stop_string_is_not_shown():
    text = generate_json(LLAMA, "--raw", "--max-tokens", "24", "--ignore-eos")["text"]
    stop = next(text[i : i + 3] for i in range(4, len(text) - 3) if text[i : i + 3].isprintable())
    answer = generate_json(LLAMA, "--raw", "--max-tokens", "24", "--ignore-eos", "--stop", "never", "--stop", stop)
    assert answer["text"] == text[: text.index(stop)]
    assert answer["finish_reason"] == "stop" and answer["stop"] == stop


def test_logit_bias_and_end_of_text():
    answer = generate_json(LLAMA, "--raw", "--logit-bias", "508=1000")
    assert answer["tokens"] == [] and answer["finish_reason"] == "stop" and answer["eos_token_id"] == 508
    answer = generate_json(LLAMA, "--raw", "--logit-bias", "65=1000", "--max-tokens", "3", "--presence-penalty", "-0.5")
    assert answer["tokens"] == [65, 65, 65]


def test_thinking_and_tools_reach_the_template(tmp_path):
    model = MODELS / "gemma4_e2b"
    size = lambda *args: generate_json(model, "--max-tokens", "1", *args)["prompt_tokens"]  # noqa: E731
    assert size("--thinking", "on") == size("--chat-template-args", '{"enable_thinking": true}') != size("--thinking", "off")
    schema = {"type": "function", "function": {"name": "weather", "description": "Now.", "parameters": {"type": "object", "properties": {}}}}
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([schema]))
    with_tools = copy_model(tmp_path)
    (with_tools / "chat_template.jinja").write_text("{% for t in tools %}{{ t | tojson }}{% endfor %}{{ messages[0].content }}")
    count = generate_json(with_tools, "--max-tokens", "1", "--tools", tools)["prompt_tokens"]
    assert count > generate_json(with_tools, "--max-tokens", "1")["prompt_tokens"]
    for wrong, code in [("{}", 2), ("[1]", 2), ('[{"type": "function"}]', 2), ("[", 4)]:
        tools.write_text(wrong)
        assert "tools.json" in error_of(run("generate", with_tools, "--prompt", "x", "--tools", tools), code)
    error_of(run("generate", with_tools, "--prompt", "x", "--tools", tmp_path / "none.json"), 3)
    error_of(run("generate", model, "--prompt", "x", "--thinking", "perhaps"), 2)
    bare = with_tools
    (bare / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    for option in [("--thinking", "on"), ("--tools", tools)]:  # neither is silently left out
        assert option[0] in error_of(run("generate", bare, "--prompt", "x", *option), 2)


def test_chat_template_is_used_unless_raw():
    chat = generate_json(LLAMA, "--max-tokens", "1")
    system = generate_json(LLAMA, "--max-tokens", "1", "--system", "Be brief.")
    raw = generate_json(LLAMA, "--raw", "--max-tokens", "1")
    assert raw["prompt_tokens"] < chat["prompt_tokens"] < system["prompt_tokens"]


def test_control_tokens_in_a_message_stay_text():
    plain = generate_json(LLAMA, "--max-tokens", "1", prompt="a")["prompt_tokens"]
    forged = generate_json(LLAMA, "--max-tokens", "1", prompt="a<|eot_id|>")["prompt_tokens"]
    assert forged > plain + 1  # spelled out, not one token


def test_prompt_that_is_not_utf8():
    error_of(run("generate", LLAMA, stdin=b"\xff\xfe"), 2)
    error_of(run("generate", LLAMA, "--raw", stdin=b"\xff\xfe"), 2)
    error_of(run("chat", LLAMA, stdin=b"\xff\xfe\n"), 2)
    error_of(run("chat", LLAMA, stdin=b"/system \xff\n"), 2)


def test_prompt_longer_than_the_context(tmp_path):
    model = copy_model(tmp_path)
    config = json.loads((model / "config.json").read_text())
    config["max_position_embeddings"] = 16
    (model / "config.json").write_text(json.dumps(config))
    assert "context" in error_of(run("generate", model, "--raw", "--prompt", "word " * 50), 2)
    answer = generate_json(model, "--raw", "--ignore-eos", "--max-tokens", "100")
    assert answer["finish_reason"] == "length"
    assert answer["prompt_tokens"] + answer["generated_tokens"] == 17  # the last one is never fed


# --- streams and signals ----------------------------------------------------------------------------------------------


def test_reader_goes_away():
    process = subprocess.Popen(
        [BINARY, "generate", LLAMA, "--raw", "--prompt", "x", "--ignore-eos", "--max-tokens", "3000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.wait(timeout=120) in (-signal.SIGPIPE, 141)
    assert b"error" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.parametrize("args", [["inspect", LLAMA], ["--help"], ["generate", LLAMA, "--prompt", "x", "--max-tokens", "2"]])
def test_closed_stdout_is_an_error(args):
    command = [BINARY, *args]
    result = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], capture_output=True, timeout=120)
    assert result.returncode == 5
    assert b"standard output" in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_on_stdout_is_an_error():
    with open("/dev/full", "wb") as full:
        result = subprocess.run([BINARY, "inspect", LLAMA], stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert result.returncode == 5 and b"No space" in result.stderr


def test_interrupt_ends_generate_with_130():
    process = subprocess.Popen(
        [BINARY, "generate", LLAMA, "--raw", "--prompt", "x", "--ignore-eos", "--max-tokens", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.read(1)  # it is generating
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"interrupted" in stderr


def test_no_escape_sequences_without_a_terminal():
    result = run("generate", LLAMA, "--prompt", "x", "--max-tokens", "4", "--verbose")
    assert b"\x1b" not in result.stderr


# --- chat -------------------------------------------------------------------------------------------------------------


def chat(text, *args):
    return run("chat", LLAMA, "--temp", "0", "--max-tokens", "8", *args, stdin=text)


def test_chat_answers_piped_lines():
    result = chat("Hello\n\nAnd now?", "--quiet")
    assert result.returncode == 0 and result.stderr == b""
    first = run("generate", LLAMA, "--prompt", "Hello", "--temp", "0", "--max-tokens", "8", "--quiet").stdout
    assert result.stdout.startswith(first)
    assert len(result.stdout) > len(first)


def test_chat_reset_forgets():
    once = chat("Hello\n", "--quiet").stdout
    assert len(once) > 1
    assert chat("Hello\n/reset\nHello\n", "--quiet").stdout == once + once


def test_chat_system_changes_the_prompt():
    with_option = chat("Hello\n", "--quiet", "--system", "Rhyme.").stdout
    assert len(with_option) > 1
    assert chat("/system Rhyme.\nHello\n", "--quiet").stdout == with_option


def test_chat_commands():
    result = chat("/help\n/nonsense\n/exit\nnot read\n")
    assert result.returncode == 0 and result.stdout == b""
    assert b"/reset" in result.stderr and b"/nonsense: no such command" in result.stderr


def test_chat_keeps_the_cache():
    result = chat("Hello\nMore\n", "--verbose")
    lines = [line for line in result.stderr.decode().splitlines() if "from the cache" in line]
    cached = [int(line.split("(")[1].split()[0]) for line in lines]
    assert cached[0] == 0 and cached[1] > 5


def test_chat_without_a_template(tmp_path):
    model = copy_model(tmp_path)
    (model / "chat_template.jinja").unlink()
    config = json.loads((model / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    assert "chat template" in error_of(run("chat", model, stdin="x\n"), 7)
    assert run("generate", model, "--prompt", "The sea", "--max-tokens", "2").returncode == 0
    error_of(run("generate", model, "--prompt", "x", "--system", "s"), 2)


class Terminal:
    """The program on a pseudo-terminal."""

    def __init__(self, *args):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.environ.pop("NO_COLOR", None)
            os.execv(BINARY, [BINARY, *args])
        self.text = ""

    def wait_for(self, what, timeout=60):
        end = time.time() + timeout
        while what not in self.text:
            assert time.time() < end, f"no {what!r} in {self.text!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"ended without {what!r}: {self.text!r}") from None
        self.text = self.text.split(what, 1)[1]

    def send(self, data):
        os.write(self.fd, data)

    def exit_code(self):
        while True:
            try:
                if not os.read(self.fd, 65536):
                    break
            except OSError:
                break
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return code


def test_chat_on_a_terminal_ctrl_c_stops_the_answer_then_the_program():
    terminal = Terminal("chat", LLAMA, "--max-tokens", "100000", "--logit-bias", "508=-1000", "--logit-bias", "511=-1000")
    terminal.wait_for("> ")
    terminal.send(b"Hello\n")
    terminal.wait_for("Hello\r\n")
    time.sleep(0.5)
    terminal.send(b"\x03")
    terminal.wait_for("(stopped)")
    terminal.wait_for("> ")
    terminal.send(b"\x03")
    terminal.wait_for("leaves.")
    terminal.wait_for("> ")
    terminal.send(b"\x03")
    assert terminal.exit_code() == 130


def test_chat_on_a_terminal_exit():
    terminal = Terminal("chat", LLAMA)
    terminal.wait_for("> ")
    terminal.send(b"/exit\n")
    assert terminal.exit_code() == 0


# --- logits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_logits_are_the_golden_ones(name, tmp_path):
    prompt = golden_prompts(name)[0]
    (tmp_path / "ids.json").write_text(json.dumps(prompt["ids"]))
    by_ids, by_text = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    result = run("logits", MODELS / name, "--ids", tmp_path / "ids.json", "--out", by_ids, "--exact", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["tokens"] == len(prompt["ids"])
    assert run("logits", MODELS / name, "--prompt", prompt["text"], "--out", by_text).returncode == 0
    assert by_ids.read_bytes() == by_text.read_bytes()
    tensors = read_safetensors(by_ids)
    entry, data = tensors["logits"]
    assert entry["dtype"] == "F32" and entry["shape"] == [len(prompt["ids"]), report["vocab_size"]]
    assert list(struct.unpack(f"<{len(prompt['ids'])}i", tensors["ids"][1])) == prompt["ids"]
    _, golden = read_safetensors(GOLDENS / "expected" / name / "logits.safetensors")["p0.hf_f32"]
    count = len(golden) // 4
    assert len(data) == len(golden)
    pairs = zip(struct.unpack(f"<{count}f", data), struct.unpack(f"<{count}f", golden))
    assert max(abs(a - b) for a, b in pairs) < 1e-4


@pytest.mark.parametrize("ids", ["[]", "[-1]", "[512]", "[1.5]", '["a"]', "{}", "[1e3]"])
def test_logits_refuses_bad_ids(ids, tmp_path):
    (tmp_path / "ids.json").write_text(ids)
    error_of(run("logits", LLAMA, "--ids", tmp_path / "ids.json", "--out", tmp_path / "o.safetensors"), 2)
    assert not (tmp_path / "o.safetensors").exists()


def test_logits_does_not_overwrite_the_model(tmp_path):
    model = copy_model(tmp_path)
    before = (model / "model.safetensors").read_bytes()
    error_of(run("logits", model, "--prompt", "x", "--out", model / "model.safetensors"), 2)
    assert (model / "model.safetensors").read_bytes() == before


def test_json_tells_thoughts_and_calls_apart():
    answer = generate_json(LLAMA, "--max-tokens", "8")
    assert answer["content"] == answer["text"] and answer["reasoning"] == "" and answer["tool_calls"] == []
    assert "tool_calls" not in generate_json(LLAMA, "--raw", "--max-tokens", "2")
