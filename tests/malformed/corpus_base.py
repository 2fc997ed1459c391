"""Building blocks of the malformed corpus: model directories with one fault each, and the manifest that says what must happen.

Exit codes (docs/exit-codes.md): 2 wrong field or use, 3 not found, 4 damaged file, 5 limit, 8 unsupported.
"""

import json
import os
import shutil
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
BASE_MODEL = os.path.join(HERE, "..", "data", "goldens", "models", "llama")
QUANTIZED_MODEL = os.path.join(HERE, "..", "data", "goldens", "models", "llama-4bit")

INSPECT = ["inspect", "{path}"]
GENERATE = ["generate", "{path}", "--prompt", "hi", "--max-tokens", "1"]


class Corpus:
    """Collects cases under one folder. Unchanged files of the base model are links to one copy."""

    def __init__(self, out):
        self.out = os.path.abspath(out)
        self.cases = []
        for name, source in (("base", BASE_MODEL), ("base-4bit", QUANTIZED_MODEL)):
            shutil.copytree(source, os.path.join(self.out, name))

    def add(self, group, name, path, command, exits, substring):
        exits = exits if isinstance(exits, list) else [exits]
        self.cases.append({"name": f"{group}/{name}", "path": os.path.relpath(path, self.out), "command": command,
                           "expect_exit": exits, "expect_substring": substring})

    def model(self, group, name, exits, substring, files=None, without=(), command=INSPECT, base="base"):
        """A copy of the base model; `files` maps names to new contents (str, bytes or a JSON value). Returns its path."""
        path = os.path.join(self.out, group, name)
        os.makedirs(path)
        files = files or {}
        for entry in sorted(os.listdir(os.path.join(self.out, base))):
            if entry not in files and entry not in without:
                os.symlink(os.path.join(self.out, base, entry), os.path.join(path, entry))
        for entry, contents in files.items():
            write(os.path.join(path, entry), contents)
        self.add(group, name, path, command, exits, substring)
        return path

    def file(self, group, name, contents, exits, substring, command=INSPECT):
        """A single file as the model (GGUF)."""
        path = os.path.join(self.out, group, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write(path, contents)
        self.add(group, name, path, command, exits, substring)

    def config(self, name, exits, substring, change=None, text=None, command=INSPECT, group="config", base="base", **kw):
        """The base model with a changed config.json: `change` edits the parsed object, or `text` replaces the file."""
        if text is None:
            config = self.read_json("config.json", base)
            change(config)
            text = json.dumps(config, indent=2)
        return self.model(group, name, exits, substring, {"config.json": text}, command=command, base=base, **kw)

    def read_json(self, name, base="base"):
        with open(os.path.join(self.out, base, name), encoding="utf-8") as f:
            return json.load(f)

    def save_manifest(self):
        names = [c["name"] for c in self.cases]
        assert len(set(names)) == len(names), "two cases of one name"
        write(os.path.join(self.out, "manifest.json"), json.dumps(self.cases, indent=1))


def write(path, contents):
    if isinstance(contents, (dict, list)):
        contents = json.dumps(contents)
    if isinstance(contents, str):
        contents = contents.encode("utf-8", "surrogatepass")
    with open(path, "wb") as f:
        f.write(contents)


def sparse(path, size, head=b""):
    """A file of `size` bytes that takes no room on disk."""
    with open(path, "wb") as f:
        f.write(head)
        f.truncate(size)


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors(header, data=b"", length=None):
    """header: bytes, str or a JSON value. `length` overrides the length field."""
    if isinstance(header, (dict, list)):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def read_safetensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    (n,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8:8 + n]), raw[8 + n:]
