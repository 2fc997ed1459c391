#!/usr/bin/env python3
"""Writes the corpus of malformed models and its manifest into a new folder: make_corpus.py OUT.

Each case is a model with one fault; manifest.json says for each {name, path, command, expect_exit, expect_substring}. A few
cases are valid on purpose, so that a program that refuses everything does not pass. run_corpus.py runs them.
"""

import os
import sys

import cases_config
import cases_gguf
import cases_safetensors
import cases_text
from corpus_base import Corpus


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: make_corpus.py OUT (a folder that does not exist yet)")
    if os.path.exists(sys.argv[1]):
        sys.exit(f"{sys.argv[1]}: exists already")
    corpus = Corpus(sys.argv[1])
    for module in (cases_safetensors, cases_config, cases_text, cases_gguf):
        module.add_cases(corpus)
    corpus.save_manifest()
    groups = {}
    for case in corpus.cases:
        group = case["name"].split("/")[0]
        groups[group] = groups.get(group, 0) + 1
    print(f"{len(corpus.cases)} cases:", ", ".join(f"{n} {g}" for g, n in groups.items()))


if __name__ == "__main__":
    main()
