import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from serving import Server  # noqa: E402


@pytest.fixture(scope="session")
def server():
    with Server("--max-concurrent", 4, "--temp", 0) as s:  # the golden model's own sampling is random
        yield s
        assert s.alive(), s.text()
