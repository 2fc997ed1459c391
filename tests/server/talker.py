"""A model that says "Hi." to everything: the golden Llama with other weights, for clients that want whole answers."""

import json
import pathlib
import shutil

import numpy as np
from safetensors.numpy import load_file, save_file
from serving import MODELS


def make(directory):
    """The layers add nothing and every token has a direction of its own beside a common one, so each token decides what follows it. Where a
    grammar forbids what should follow (an end of text inside a string), the next best leads out: a quotation mark, a brace."""
    directory = pathlib.Path(directory)
    shutil.copytree(MODELS / "llama", directory)
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    tensors = load_file(directory / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = np.zeros_like(tensor)
    rows, width = tensors["model.embed_tokens.weight"].shape
    directions = np.random.default_rng(1).normal(size=(rows, width))
    directions[:, 0] = 0
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    embedding = directions.copy()
    embedding[:, 0] = 1
    head = np.zeros((rows, width))
    h, i, dot, quote, brace = (vocabulary[c] for c in 'Hi."}')
    end = json.loads((directory / "config.json").read_text())["eos_token_id"][0]
    head[h, 0] = 1  # after anything
    for token, after, strength in ((i, h, 8), (dot, i, 8), (end, dot, 8), (quote, dot, 6), (brace, quote, 6)):
        head[token] += strength * directions[after]
    tensors["model.embed_tokens.weight"] = embedding.astype(np.float16)
    tensors["lm_head.weight"] = head.astype(np.float16)
    tensors["model.norm.weight"] = np.ones_like(tensors["model.norm.weight"])
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory
