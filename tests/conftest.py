import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """An empty cache of the tests' own, for their subprocesses too."""
    os.environ["ZOO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def zoo_command(tmp_path):
    """Run the command line as a user does, in a process and a folder of its own."""

    def run(*arguments, path=None, cwd=tmp_path, timeout=300):
        environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(path or "")}
        return subprocess.run(
            [sys.executable, "-c", "from zoo.cli import main; main()", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=environment,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def root():
    return Path(__file__).parents[1]
