#!/usr/bin/env python3
"""Runs a binary over the malformed corpus: run_corpus.py BINARY [--corpus DIR] [--sanitized] [--only WORD].

A case passes when the program ends in time, by itself, with an expected exit code; a failure says so in exactly one line on
stderr that holds the expected words; memory stays bounded; no sanitizer report; and the model's files are as they were.
"""

import argparse
import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SECONDS = 2.0
MEMORY_MB = 512
SANITIZER_WORDS = ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "UndefinedBehaviorSanitizer", "runtime error:")


def snapshot(path):
    """Everything under `path` that a program could have changed."""
    if not os.path.lexists(path):
        return None
    out = {}
    entries = [path]
    for folder, folders, files in os.walk(path):
        entries += [os.path.join(folder, name) for name in folders + files]
    for entry in entries:
        info = os.lstat(entry)
        record = (stat.S_IFMT(info.st_mode), info.st_size, info.st_mtime_ns)
        if stat.S_ISLNK(info.st_mode):
            record += (os.readlink(entry),)
        elif stat.S_ISREG(info.st_mode) and info.st_size < 1 << 24:
            with open(entry, "rb") as f:
                record += (hashlib.sha256(f.read()).hexdigest(),)
        out[entry] = record
    return out


def run(command, limit):
    """(exit code or None after a timeout, stderr, seconds, peak MB)."""
    with tempfile.TemporaryFile() as err:
        start = time.monotonic()
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err,
                                 preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)))
        timed_out = False
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid != 0:
                break
            if time.monotonic() - start > limit and not timed_out:
                timed_out = True
                os.kill(child.pid, signal.SIGKILL)
            time.sleep(0.005)
        child.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        err.seek(0)
        text = err.read(1 << 20).decode("utf-8", "replace")
    return (None if timed_out else child.returncode), text, seconds, usage.ru_maxrss / 1024


def check(case, binary, corpus, limit, memory_mb):
    """What is wrong with a case, as a list of phrases."""
    path = os.path.join(corpus, case["path"])
    before = snapshot(path)
    code, err, seconds, peak = run([binary] + [path if a == "{path}" else a for a in case["command"]], limit)
    wrong = []
    if code is None:
        return [f"did not end within {limit:g} s"]
    if code < 0:
        wrong.append(f"killed by {signal.Signals(-code).name}")
    elif code not in case["expect_exit"]:
        wrong.append(f"exit {code}, expected {case['expect_exit']}")
    lines = [line for line in err.splitlines() if line.strip()]
    if code != 0 and len(lines) != 1:
        wrong.append(f"{len(lines)} lines on stderr, expected 1")
    if code != 0 and case["expect_substring"] not in err:
        wrong.append(f"stderr lacks '{case['expect_substring']}'")
    if any(word in err for word in SANITIZER_WORDS):
        wrong.append("sanitizer report")
    if memory_mb and peak > memory_mb:
        wrong.append(f"{peak:.0f} MB of memory")
    if snapshot(path) != before:
        wrong.append("the input was changed")
    if wrong:
        wrong.append("stderr: " + (err.strip()[:300] or "(empty)"))
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("--corpus", help="a folder made by make_corpus.py; without it one is made and removed")
    parser.add_argument("--sanitized", action="store_true", help="four times the time, no check of memory")
    parser.add_argument("--only", default="", help="run the cases whose name holds this word")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        corpus = args.corpus
        if corpus is None:
            corpus = os.path.join(scratch, "corpus")
            subprocess.run([sys.executable, os.path.join(HERE, "make_corpus.py"), corpus], check=True)
        with open(os.path.join(corpus, "manifest.json"), encoding="utf-8") as f:
            cases = [c for c in json.load(f) if args.only in c["name"]]
        binary = os.path.abspath(args.binary)
        failed = 0
        for case in cases:
            wrong = check(case, binary, corpus, SECONDS * (4 if args.sanitized else 1), 0 if args.sanitized else MEMORY_MB)
            if wrong:
                failed += 1
                print(f"FAIL {case['name']}: {'; '.join(wrong)}", flush=True)
    print(f"{len(cases) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not cases else 0)


if __name__ == "__main__":
    main()
