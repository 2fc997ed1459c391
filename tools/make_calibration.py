#!/usr/bin/env python3
"""Writes data/calibration.jsonl and data/heldout.jsonl from data/sources/ and the two generator modules beside this file.

Domain by domain, the hand-written documents come first, then the generated ones. The output depends on nothing but these files
and the fixed seeds. `--check` compares with the files on disk and writes nothing.

Source format: `%%% domain` starts a document. A document whose first line starts with `@@` is a conversation: `@@system`, `@@user`,
`@@assistant` and `@@tool` each start a message, `@@tools [...]` declares tools as JSON. Anything else is plain text.
"""

import argparse
import hashlib
import json
import pathlib
import random
import re
import sys

import calibration_generators
import heldout_generators

ROOT = pathlib.Path(__file__).resolve().parent.parent / "data"
DOMAINS = ("prose", "chat", "code", "reasoning", "tool", "structured")
SEEDS = {"calibration": 20260711, "heldout": 918273645}


def parse_source(path):
    for block in re.split(r"(?m)^%%% ", path.read_text(encoding="utf-8"))[1:]:
        domain, body = block.split("\n", 1)
        body = body.rstrip("\n")
        if domain not in DOMAINS:
            sys.exit(f"{path}: unknown domain '{domain}'")
        if not body.startswith("@@"):
            yield {"domain": domain, "text": body}
            continue
        doc = {"domain": domain, "messages": []}
        for role, rest in re.findall(r"(?ms)^@@(\w+)(.*?)(?=^@@|\Z)", body):
            if role == "tools":
                doc["tools"] = json.loads(rest)
            else:
                doc["messages"].append({"role": role, "content": rest.strip("\n")})
        yield doc


def texts(doc):
    return [doc["text"]] if "text" in doc else [m["content"] for m in doc["messages"]]


def size(doc):
    return sum(len(t.encode()) for t in texts(doc))


def generate(targets, seed, seen):
    """Documents of each domain until its byte target is reached; the generators take turns."""
    for domain, (generators, target) in targets.items():
        r = random.Random(f"{seed}/{domain}")
        done, turn = 0, 0
        while done < target:
            doc = generators[turn % len(generators)](r)
            turn += 1
            key = "\n".join(texts(doc))
            if key in seen:
                continue
            seen.add(key)
            done += size(doc)
            yield {"domain": domain, **doc}


def build(name, module):
    docs = [d for path in sorted((ROOT / "sources" / name).glob("*.txt")) for d in parse_source(path)]
    hand = sum(size(d) for d in docs)
    seen = {"\n".join(texts(d)) for d in docs}
    if len(seen) != len(docs):
        sys.exit(f"{name}: a hand-written document appears twice")
    docs += generate(module.TARGETS, SEEDS[name], seen)
    docs.sort(key=lambda d: DOMAINS.index(d["domain"]))  # stable; readers let the domains take turns in this order
    return docs, hand


def words(docs, n=12):
    out = set()
    for d in docs:
        for t in texts(d):
            w = re.findall(r"\w+", t.lower())
            out.update(tuple(w[i : i + n]) for i in range(len(w) - n + 1))
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="fail if the files on disk differ")
    args = parser.parse_args()
    sets = {
        "calibration": build("calibration", calibration_generators),
        "heldout": build("heldout", heldout_generators),
    }
    shared = words(sets["calibration"][0]) & words(sets["heldout"][0])
    if shared:
        sys.exit("the two sets share a run of 12 words: " + " ".join(sorted(shared)[0]))
    ok = True
    for name, (docs, hand) in sets.items():
        content = "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in docs).encode()
        path = ROOT / f"{name}.jsonl"
        if args.check:
            if not path.exists() or path.read_bytes() != content:
                print(f"{path} is not what this script makes; run tools/make_calibration.py", file=sys.stderr)
                ok = False
            continue
        path.write_bytes(content)
        print(
            f"{path.name}: {len(docs)} documents, {len(content):,} bytes, {hand:,} of them text written by hand, sha256 {hashlib.sha256(content).hexdigest()}"
        )
        print("| domain | documents | conversations | bytes of text |\n|---|---:|---:|---:|")
        for domain in DOMAINS:
            of = [d for d in docs if d["domain"] == domain]
            print(f"| {domain} | {len(of)} | {sum('messages' in d for d in of)} | {sum(map(size, of)):,} |")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
