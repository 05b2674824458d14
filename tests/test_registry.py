import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.registry import DATA, LAYERS, LIKELIHOODS, MODELS, RegistryError


@pytest.fixture(scope="module")
def paintbox(tmp_path_factory):
    """A real second distribution, built and installed into a path of its own."""
    folder = tmp_path_factory.mktemp("paintbox")
    source = shutil.copytree(Path(__file__).parent / "plugin", folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", folder / "site", source], check=True)
    return folder / "site"


def test_a_built_in_is_known_because_its_file_is_there():
    assert "masked-conv2d" in LAYERS.names()
    assert "pixelcnn" in MODELS.names()
    assert "bernoulli" in LIKELIHOODS.names()
    assert {"mnist", "synthetic"} <= set(DATA.names())
    for registry in (LAYERS, MODELS, LIKELIHOODS, DATA):
        for name in registry.names():
            assert callable(registry.get(name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maskedconv", "did you mean 'masked-conv2d'"),
        ("xyz", "known: channel-norm"),
        ("../causal", "no layer is named"),
        ("_base", "no layer is named"),
    ],
)
def test_an_unknown_name_gets_close_matches(name, message):
    with pytest.raises(RegistryError, match=message):
        LAYERS.get(name)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"width": 3}, "needs a name"),
        ({"name": "channel-norm", "size": 3}, "it takes"),
        ("conditional-bias", "missing"),
    ],
)
def test_a_slot_says_what_it_takes(spec, message):
    with pytest.raises(RegistryError, match=message):
        LAYERS.build(spec, **({"channels": 4} if spec != "conditional-bias" else {}))


def python(code, path):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(path)})


def test_a_plugin_is_imported_only_when_asked_for(paintbox):
    code = "import sys; from zoo.registry import LAYERS, MODELS; print(LAYERS.names(), MODELS.names());"
    code += "assert 'paintbox' not in sys.modules; LAYERS.get('wide-block'); assert 'paintbox.layers' in sys.modules;"
    answer = python(code, paintbox)
    assert answer.returncode == 0, answer.stderr
    assert "'wide-block'" in answer.stdout
    assert "'tiny-arm'" in answer.stdout


def test_a_broken_plugin_fails_alone_and_by_name(paintbox):
    code = "from zoo.registry import LAYERS; LAYERS.get('masked-conv2d'); LAYERS.get('wide-block'); print('well');"
    code += "LAYERS.get('broken-block')"
    answer = python(code, paintbox)
    assert answer.stdout == "well\n"
    message = answer.stderr.splitlines()[-1]
    assert "the layer 'broken-block' (paintbox.broken:BrokenBlock of paintbox) does not import" in message
    assert "RuntimeError: paintbox is out of paint" in message


def test_a_name_declared_twice_is_refused(paintbox):
    answer = python("from zoo.registry import LAYERS; LAYERS.get('channel-norm')", paintbox)
    assert "'channel-norm' is declared 2 times: the zoo's own channel_norm.py, paintbox.layers" in answer.stderr


def test_plugins_are_used_from_recipes_by_name(paintbox, zoo_command, tmp_path):
    run = ["train", "smoke", "training.epochs=1", "--json"]
    block = ["model.block={name: wide-block, width: 3}", "name=with-plugin", "--output", "block"]
    answer = zoo_command(*run, *block, path=paintbox)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["test"]["nats_per_image"] < 64 * 0.7
    # The commands of the README.
    for block in ("wide-block", "{name: wide-block, width: 7}"):
        answer = zoo_command("train", "cond", f"model.block={block}", "--dry-run", path=paintbox)
        assert answer.returncode == 0, answer.stderr
    (tmp_path / "arm.yaml").write_text(
        "name: arm\nmodel: {name: tiny-arm, kernel_size: 3}\ndata: {name: synthetic}\ntraining: {epochs: 1}\n"
    )
    answer = zoo_command("train", "arm.yaml", "--json", path=paintbox)
    assert answer.returncode == 0, answer.stderr
    for folder in ("block", "runs/arm"):
        assert zoo_command("sample", folder, "-n", "4", "-o", "x.png", path=paintbox).returncode == 0
        assert json.loads(zoo_command("check", folder, "--json", path=paintbox).stdout)["verified"]
    for target in ("wide-block", "tiny-arm"):
        assert json.loads(zoo_command("check", target, "--json", path=paintbox).stdout)["causal"]
    answer = zoo_command("sample", "block", "-n", "4", "-o", "x.png")
    assert answer.returncode == 1
    assert "no layer is named 'wide-block'" in answer.stderr
