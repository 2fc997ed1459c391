"""schemathesis makes requests from /openapi.json, right and wrong ones: none may end in a 5xx, and what is sent must be what the document says."""

import pathlib
import subprocess
import sys

import pytest
from serving import Server

pytest.importorskip("schemathesis")


def test_no_server_errors(tmp_path):
    with Server("--max-tokens", 4, "--context-length", 128, "--temp", 0) as server:
        run = subprocess.run([pathlib.Path(sys.executable).with_name("schemathesis"), "run", server.url + "/openapi.json", "--checks",
                              "not_a_server_error,status_code_conformance,content_type_conformance", "--max-examples", "10", "--max-time", "20",
                              "--phases", "examples,coverage,fuzzing", "--generation-deterministic", "--no-shrink", "--continue-on-failure",
                              "--request-timeout", "20", "--report", "junit", "--report-dir", str(tmp_path), "--no-color"],
                             cwd=tmp_path, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        assert server.alive()
        server.wait_idle()
