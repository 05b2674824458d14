"""What a user installs, and what the README tells him to type."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import zoo
from zoo.catalog import find, trained
from zoo.recipe import find_recipe, load_recipe, recipe_names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([*pip, Path(__file__).parents[1]], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_brings_data_weights_and_recipes(wheel, tmp_path):
    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "zoo/data/files/mnist/train-images-idx3-ubyte.gz",
        "zoo/data/files/mnist/LICENSE",
        "zoo/weights/pixelcnn-mnist/model.safetensors",
        "zoo/weights/cond-pixelcnn-mnist/config.json",
        "zoo/recipes/cond.yaml",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests", "recipes", "zoo/recipes/_"))]


def test_the_installed_package_works_outside_the_repository(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "import zoo, zoo.recipe; print(zoo.__file__, zoo.recipe.find_recipe('cond')); "
    code += "print(zoo.load('cond-pixelcnn-mnist').sample(1, labels=[3]).shape)"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = answer.stdout.splitlines()
    assert first == f"{tmp_path}/site/zoo/__init__.py {tmp_path}/site/zoo/recipes/cond.yaml"
    assert second == "torch.Size([1, 1, 28, 28])"


def test_the_readmes_python_runs(root):
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(block, {})


def test_the_readmes_commands_exist(root):
    import click

    from zoo.cli import cli

    commands = set(re.findall(r"(?:^|`|&& |/)zoo ([a-z]+)", (root / "README.md").read_text(), re.MULTILINE))
    assert {"sample", "eval", "train", "check", "list"} <= commands
    assert commands <= set(cli.list_commands(click.Context(cli)))


def test_the_gate_runs_the_readmes_test_command(root):
    readme, gate = (root / "README.md").read_text(), (root / ".ci" / "run").read_text()
    for part in ("python3 -m venv", '-e ".[dev]"', "python -m pytest"):
        assert part in readme
        assert part.replace("python -m", 'python" -m') in gate


@pytest.mark.parametrize("name", trained())
def test_bundled_weights_come_from_a_packaged_recipe(name):
    made_by = [load_recipe(find_recipe(known)) for known in recipe_names()]
    assert load_recipe(find(name) / "recipe.yaml") in made_by


def test_the_version_is_one(root):
    assert f'version = "{zoo.__version__}"' in (root / "pyproject.toml").read_text()
