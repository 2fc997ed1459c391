"""Starts `optiq serve` on a tiny model, and small helpers for requests."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("OPTIQ_BINARY", str(ROOT / "build" / "release" / "optiq"))
MODELS = ROOT / "tests" / "data" / "goldens" / "models"

# A template with tools and thoughts, in the format of Qwen and Hermes: the golden models' own ones have neither.
TEMPLATE = """{%- if tools %}{{- '<|im_start|>system\n# Tools\n' }}{%- for tool in tools %}{{- tool | tojson + '\n' }}{%- endfor %}
{{- 'Answer with <tool_call>{"name": .., "arguments": ..}</tool_call><|im_end|>\n' }}{%- endif %}
{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\n' + m['content'] }}
{%- for c in m.tool_calls or [] %}{{- '\n<tool_call>\n' + c.function | tojson + '\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""


class Server:
    def __init__(self, *args, model="qwen2", template=True, env=None):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        command = [BINARY, "serve", "--model", str(MODELS / model), "--port", "0", *map(str, args)]
        if template:
            self.template = tempfile.NamedTemporaryFile("w", suffix=".jinja")
            self.template.write(TEMPLATE if template is True else template)
            self.template.flush()
            command += ["--chat-template", self.template.name]
        self.process = subprocess.Popen(command, stderr=self.log, stdout=subprocess.DEVNULL, env={**os.environ, **(env or {})})
        deadline = time.time() + 60
        while True:
            text = self.text()
            match = re.search(r"listening on (http://\S+:(\d+))", text)
            if match:
                self.url, self.port = match.group(1), int(match.group(2))
                return
            if self.process.poll() is not None or time.time() > deadline:
                raise RuntimeError(f"no start: {text}")
            time.sleep(0.02)

    def text(self):
        return pathlib.Path(self.log.name).read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, sig=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(sig)
            self.process.wait(60)
        return self.process.returncode

    def alive(self):
        return self.process.poll() is None

    def get(self, path, **headers):
        return self.request("GET", path, None, **headers)

    def post(self, path, body, **headers):
        return self.request("POST", path, body, **headers)

    def request(self, method, path, body, timeout=60, **headers):
        """(status, parsed body)."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json", **headers}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                status, text = response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except json.JSONDecodeError:
            return status, text

    def chat(self, **fields):
        fields.setdefault("model", "default_model")
        fields.setdefault("messages", [{"role": "user", "content": "The sea is"}])
        fields.setdefault("max_tokens", 16)
        status, body = self.post("/v1/chat/completions", fields)
        assert status == 200, body
        return body

    def stats(self):
        return self.get("/props")[1]["stats"]

    def wait_idle(self, seconds=5):
        deadline = time.time() + seconds
        while time.time() < deadline:
            stats = self.stats()
            if stats["running"] + stats["waiting"] + stats["prefilling"] == 0 and stats["kv_bytes_active"] == 0:
                return stats
            time.sleep(0.01)
        raise AssertionError(stats)

    def raw(self, data, read=True, timeout=10):
        """Bytes over a fresh connection; what comes back until the end."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as s:
            s.sendall(data)
            out = b""
            while read:
                try:
                    piece = s.recv(65536)
                except ConnectionResetError:
                    break
                if not piece:
                    break
                out += piece
            return out


def http(path, body, **headers):
    """The bytes of a POST request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return (head + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode() + data


def events(text):
    """The JSON of a stream's events."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
