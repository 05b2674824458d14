import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub


def _free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


# The Hub's client reads these once, when it is imported.
HUB_PORT = _free_port()
os.environ |= {
    "HF_ENDPOINT": f"http://127.0.0.1:{HUB_PORT}",
    "HF_HOME": tempfile.mkdtemp(prefix="zoo-tests-hf-"),
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
# No proxy knows the way to this machine.
for name in ("NO_PROXY", "no_proxy"):
    os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """Empty caches of the tests' own, for their subprocesses too."""
    os.environ["ZOO_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


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
def zoo_inside(tmp_path, monkeypatch):
    """Run the command line in this process, which spares the start of another: (exit code, stdout, stderr)."""
    from click import ClickException
    from click.testing import CliRunner

    from zoo.cli import cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        answer = CliRunner().invoke(cli, [str(argument) for argument in arguments], standalone_mode=False)
        if isinstance(answer.exception, ClickException):
            # As main() answers it.
            message = f"Error: {answer.exception.format_message()}"
            return subprocess.CompletedProcess(arguments, answer.exception.exit_code, answer.stdout, message)
        if answer.exception is not None:
            raise answer.exception
        return subprocess.CompletedProcess(arguments, answer.return_value or 0, answer.stdout, answer.stderr)

    return run


@pytest.fixture
def root():
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def hub_server():
    server = LoopbackHub(HUB_PORT).start()
    yield server
    server.stop()


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """An empty Hub on this machine, an empty cache, and the token of its user ada."""
    from huggingface_hub import constants

    hub_server.reset()
    cache = str(tmp_path / "hub-cache")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
    monkeypatch.setenv("HF_HUB_CACHE", cache)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    return hub_server
