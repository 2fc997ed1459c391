#!/usr/bin/env python3
"""Load on a running OpenAI-compatible server: aggregate tokens per second and time to the first token for several numbers of clients.

    optiq serve --model MODEL --port 8080 --quiet &
    bench/serve_load.py --url http://127.0.0.1:8080 --clients 1,4,16 --tokens 64
    bench/serve_load.py --url http://127.0.0.1:8080 --soak 1800 --clients 24 --pid PID   # mixed traffic with clients that leave; needs optiq's /props

Only the standard library, so that the same script measures any server.
"""
import argparse
import http.client
import json
import random
import statistics
import threading
import time
import urllib.parse

TOPICS = ["the sea", "a lighthouse", "old maps", "winter", "the harbour", "a long walk", "bread", "the moon", "a clock", "rain", "rivers", "glass",
          "a train", "letters", "the garden", "stars"]


def stream(url, model, prompt, tokens, leave_after=None, seed=None):
    """(seconds to the first token, tokens, seconds in all)."""
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=600)
    body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0 if seed is None else 1, "stream": True, "ignore_eos": True}
    if seed is not None:
        body["seed"] = seed
    start = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        response.read()
        return None, 0, response.status
    first, count = None, 0
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        first = first or time.perf_counter() - start
        count += 1
        if leave_after is not None and count >= leave_after:
            connection.close()
            break
    return first, count, time.perf_counter() - start


def load(url, model, clients, tokens, rounds, words):
    firsts, lock = [], threading.Lock()

    def client(index):
        for r in range(rounds):
            prompt = f"{index} {r}. A story about {TOPICS[index % 16]}. " + "It was told often in those days. " * (words // 7)
            first, _, _ = stream(url, model, prompt, tokens)
            with lock:
                firsts.append(first)

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    start = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    seconds = time.perf_counter() - start
    good = sorted(f for f in firsts if f)
    print(f"{clients:3} clients: {len(good) * tokens / seconds:8.1f} tok/s in all; first token median {statistics.median(good):.3f} s, "
          f"worst {good[-1]:.3f} s; {len(firsts) - len(good)} refused", flush=True)


def get(url, path):
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def resident(pid):
    """Megabytes that are not mapped files."""
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024


def soak(url, model, seconds, clients, pid):
    """Mixed traffic; every half minute what the server holds, at the end whether anything is stuck."""
    begin = time.time()
    stop, counts, lock = begin + seconds, {"whole": 0, "left": 0, "refused": 0, "failed": 0}, threading.Lock()
    oldest = [0.0] * clients  # when each client's request began

    def client(index):
        rng = random.Random(index)
        while time.time() < stop:
            leave = rng.randrange(1, 20) if rng.random() < 0.4 else None
            prompt = rng.choice(TOPICS) + ": " + "Once more. " * rng.randrange(1, 60)
            oldest[index] = time.time()
            try:
                first, _, _ = stream(url, model, prompt, rng.randrange(1, 48), leave, rng.randrange(1000))
                what = "refused" if first is None else "left" if leave else "whole"
            except (OSError, http.client.HTTPException) as error:
                print("failed:", repr(error), flush=True)
                what = "failed"
            with lock:
                counts[what] += 1

    threads = [threading.Thread(target=client, args=(i,)) for i in range(clients)]
    for t in threads:
        t.start()
    while any(t.is_alive() for t in threads):
        stats = get(url, "/props")["stats"]
        print(f"{time.time() - begin:6.0f} s: {resident(pid) if pid else float('nan'):8.1f} MB, KV {stats['kv_bytes_active'] / 1e6:7.2f} MB active "
              f"{stats['kv_bytes_cached'] / 1e6:7.2f} MB cached, {stats['running']} running, {stats['waiting']} waiting, "
              f"longest request now {time.time() - min(oldest):.1f} s, {counts}", flush=True)
        until = time.time() + 30
        while time.time() < until and any(t.is_alive() for t in threads):
            time.sleep(0.2)
    time.sleep(1)
    stats = get(url, "/props")["stats"]
    print(counts, stats, f"{resident(pid):.1f} MB" if pid else "", flush=True)
    assert stats["running"] == stats["waiting"] == stats["kv_bytes_active"] == 0, "something is stuck"
    assert counts["failed"] == 0, "answers broke off"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--words", type=int, default=56, help="words of each prompt, about")
    parser.add_argument("--soak", type=float, help="seconds of mixed traffic instead, with the first number of --clients")
    parser.add_argument("--pid", type=int, help="of the server: its resident memory is shown too")
    args = parser.parse_args()
    url = urllib.parse.urlparse(args.url)
    model = get(url, "/v1/models")["data"][0]["id"]
    if args.soak:
        return soak(url, model, args.soak, int(args.clients.split(",")[0]), args.pid)
    stream(url, model, "Warm up.", 8)
    for clients in map(int, args.clients.split(",")):
        load(url, model, clients, args.tokens, args.rounds, args.words)


if __name__ == "__main__":
    main()
