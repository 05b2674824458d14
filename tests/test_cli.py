import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

import zoo
from zoo.data import to_grid
from zoo.registry import DATA

NAMES = ["cond-pixelcnn-mnist", "pixelcnn-mnist"]


@pytest.mark.parametrize("code", ["import zoo", "from zoo.cli import cli; cli(['--help'], standalone_mode=False)"])
def test_import_and_help_load_no_torch(code):
    loaded = f"{code}; import sys; assert not {{'torch', 'numpy', 'pydantic', 'rich'}} & set(sys.modules)"
    answer = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_help_of_every_command(zoo_command):
    for name in ("list", "info", "recipes", "train", "eval", "sample", "check"):
        assert name in zoo_command("--help").stdout
        assert zoo_command(name, "--help").returncode == 0


def test_list(zoo_inside):
    rows = {row["name"]: row for row in json.loads(zoo_inside("list", "--json").stdout)}
    keys = {"name", "architecture", "conditional", "dataset", "parameters", "weights", "metrics"}
    assert all(keys <= row.keys() for row in rows.values())
    assert rows["cond-pixelcnn-mnist"]["weights"] == "bundled"
    assert rows["cond-pixelcnn-mnist"]["conditional"]
    assert rows["pixelcnn"]["weights"] == "none"
    assert set(NAMES) <= {row["name"] for row in json.loads(zoo_inside("list", "*mnist*", "--json").stdout)}
    assert "cond-pixelcnn-mnist" in zoo_inside("list").stdout
    assert zoo_inside("list", "nothing*", "--json").stdout == "[]\n"


def test_info(zoo_inside):
    about = json.loads(zoo_inside("info", "cond-pixelcnn-mnist", "--json").stdout)
    assert about["receptive_field"]["rows_above"] > 3
    assert about["config"]["architecture"] == "pixelcnn"
    assert "name: cond-pixelcnn-mnist" in about["recipe"]
    assert any("MaskedConv2d('A'" in layer["layer"] for layer in about["layers"])
    assert "receptive field" in zoo_inside("info", "pixelcnn").stdout


def test_recipes(zoo_inside, tmp_path):
    assert {"cond", "pixelcnn", "smoke"} <= {row["name"] for row in json.loads(zoo_inside("recipes", "--json").stdout)}
    assert zoo_inside("recipes", "smoke").returncode == 0
    assert (tmp_path / "smoke.yaml").read_text().startswith("# A real training")
    answer = zoo_inside("recipes", "smoke")
    assert answer.returncode == 2
    assert "exists already" in answer.stderr
    assert zoo_inside("recipes", "../cond").returncode == 2


def test_train_then_eval_and_sample(zoo_inside, tmp_path):
    answer = zoo_inside("train", "smoke", "training.epochs=1", "--json")
    summary = json.loads(answer.stdout)
    assert summary["run"] == "runs/smoke"
    assert "nats" in answer.stderr
    result = json.loads(zoo_inside("eval", "runs/smoke", "--split", "validation", "--json").stdout)
    assert {"model", "dataset", "split", "protocol", "images", "nats_per_image", "nats_std_error", "bits_per_dim"} <= (
        result.keys()
    )
    assert result["nats_per_image"] == pytest.approx(summary["validation"]["nats_per_image"], abs=0.01)
    for suffix in ("png", "gif", "safetensors"):
        answer = zoo_inside("sample", "runs/smoke", "-n", "20", "--seed", "1", "-o", f"x.{suffix}", "--json")
        assert json.loads(answer.stdout)["images"] == 20
    tensors = load_file(tmp_path / "x.safetensors")
    assert tensors["images"].shape == (20, 1, 8, 8)
    assert tensors["labels"].tolist() == [label for label in range(10) for _ in range(2)]
    zoo_inside("sample", "runs/smoke", "-n", "20", "--seed", "1", "--sampler", "naive", "-o", "naive.safetensors")
    assert (load_file(tmp_path / "naive.safetensors")["images"] == tensors["images"]).all()
    with Image.open(tmp_path / "x.png") as picture, Image.open(tmp_path / "x.gif") as animation:
        assert picture.format == "PNG"
        assert animation.n_frames > 10


@pytest.mark.filterwarnings("default:.*cannot be read")
def test_train_on_a_folder_and_sample(zoo_inside, tmp_path):
    generator = np.random.default_rng(0)
    for number in range(40):
        height, width = generator.integers(5, 60, 2)
        place = tmp_path / "photos" / ("warm" if number % 2 else "cold")
        place.mkdir(parents=True, exist_ok=True)
        colour = (255, 40, 0) if number % 2 else (0, 40, 255)
        Image.new("RGB", (int(width), int(height)), colour).save(place / f"{number}.png")
    (tmp_path / "photos" / "warm" / "broken.png").write_bytes(b"\x89PNG, or not")
    small = ["model.image_shape=[3, 6, 6]", "data.size=6", "model.channels=12", "model.layers=1", "training.epochs=3"]
    small += ["training.batch_size=4", "optimizer.learning_rate=2e-2", "optimizer.warmup_steps=5", "training.ema=0.5"]
    with pytest.warns(UserWarning, match="warm/broken.png cannot be read and is left out"):
        answer = zoo_inside("train", "folder", "data.path=photos", "model.num_classes=2", *small, "--json")
    assert answer.returncode == 0, answer.stderr
    with pytest.warns(UserWarning, match="warm/broken.png cannot be read and is left out"):
        result = json.loads(zoo_inside("eval", "runs/my-images", "--json").stdout)
    assert result["dataset"] == "folder"
    assert result["bits_per_dim"] < 8
    answer = zoo_inside("sample", "runs/my-images", "-n", "8", "--verify", "-o", "x.safetensors", "--json")
    assert json.loads(answer.stdout)["verified"]
    assert load_file(tmp_path / "x.safetensors")["images"].shape == (8, 3, 6, 6)
    assert "labels, 2 classes (cold, warm)" in zoo_inside("info", "runs/my-images").stdout
    for labels in ("warm,cold", "1,0"):
        answer = zoo_inside("sample", "runs/my-images", "-n", "4", "--labels", labels, "-o", "x.safetensors", "--json")
        assert answer.returncode == 0, answer.stderr
        assert load_file(tmp_path / "x.safetensors")["labels"].tolist() == [1, 1, 0, 0]
    answer = zoo_inside("sample", "runs/my-images", "--labels", "hot", "-o", "x.png")
    assert (answer.returncode, "'hot'; write names or numbers of classes" in answer.stderr) == (2, True)
    assert "classes: cold, warm; with commas" in answer.stderr
    # Another folder, with other classes.
    spec = "{name: folder, path: photos/cold, size: 6}"
    answer = zoo_inside("eval", "runs/my-images", "--data", spec)
    assert answer.returncode == 2
    assert "the data has no classes, the model is conditional on 2" in answer.stderr
    with pytest.warns(UserWarning, match="warm/broken.png cannot be read and is left out"):
        answer = zoo_inside("eval", "runs/my-images", "--data", spec.replace("photos/cold", "photos"))
    assert answer.returncode == 0
    answer = zoo_inside("eval", "runs/my-images", "--data", "{name: folder, path: nowhere}")
    assert (answer.returncode, "nowhere'; name the one with your images" in answer.stderr) == (2, True)


def test_sample_with_vectors_maps_and_guidance(zoo_inside, tmp_path):
    conditions = ["model.vector_size=4", "model.map_channels=1", "model.condition_dropout=0.2", "training.epochs=1"]
    data = ["data.name=moments", "data.of={name: coarse, of: synthetic, factor: 2}"]
    assert zoo_inside("train", "smoke", *conditions, *data).returncode == 0
    sample = ("sample", "runs/smoke", "-n", "6", "--verify", "--json", "-o")
    answer = zoo_inside(*sample, "a.safetensors")
    assert json.loads(answer.stdout)["verified"], answer.stderr
    test = DATA.build({"name": "moments", "of": {"name": "coarse", "of": "synthetic", "factor": 2}}, "test", None)
    a = load_file(tmp_path / "a.safetensors")
    for name in ("labels", "vectors", "maps"):
        assert (a[name] == getattr(test, name)[:6]).all()
    # The same from a file, but for what is told otherwise.
    told = ("--vector", "1,2,3,4", "--vector=-1,0,0,0", "--labels", "7", "--condition", "a.safetensors")
    assert json.loads(zoo_inside(*sample, "b.safetensors", *told, "--guidance", "2").stdout)["verified"]
    b = load_file(tmp_path / "b.safetensors")
    assert b["labels"].tolist() == [7] * 6
    assert b["vectors"].tolist() == [[1, 2, 3, 4]] * 3 + [[-1, 0, 0, 0]] * 3
    assert (b["maps"] == a["maps"]).all()
    assert (b["images"] != a["images"]).any()
    for wrong, message in [
        (("--vector", "1,2"), r"vectors have shape (6, 2)"),
        (("--vector", "a"), "--vector is 'a'; write numbers"),
        (("--condition", "tset"), "--condition is 'tset'; name a split"),
        (("--condition", "nowhere.safetensors"), "nowhere.safetensors cannot be read"),
        (("-n", "9", "--condition", "a.safetensors"), "a.safetensors has labels for 6 images"),
    ]:
        answer = zoo_inside(*sample, "x.png", *wrong)
        assert answer.returncode == 2
        assert message in answer.stderr
    assert not (tmp_path / "x.png").exists()


def test_bundled_models_sample_each_digit(zoo_inside, tmp_path):
    answer = zoo_inside("sample", "cond-pixelcnn-mnist", "-n", "4", "--labels", "3,7", "-o", "x.safetensors")
    assert answer.returncode == 0, answer.stderr
    assert load_file(tmp_path / "x.safetensors")["labels"].tolist() == [3, 3, 7, 7]


def test_complete_images_and_verify_them(zoo_inside, tmp_path):
    arguments = ("sample", "cond-pixelcnn-mnist", "-n", "12", "--verify", "--temperature", "0.9", "--json")
    answer = zoo_inside(*arguments, "--given", "test", "--keep", "14", "-o", "x.safetensors")
    report = json.loads(answer.stdout)
    assert report["verified"], answer.stderr
    assert report["values"] == 12 * 784
    tensors = load_file(tmp_path / "x.safetensors")
    data = DATA.get("mnist")("test", None)
    assert tensors["labels"].tolist() == data.labels[:12].tolist()
    truth = to_grid(data.images[:12], "threshold")
    assert (tensors["images"][:, :, :14] == truth[:, :, :14]).all()
    assert (tensors["images"] != truth).any()
    # The same from a file, whose upper half is kept when it says nothing.
    zoo_inside(*arguments, "--given", "x.safetensors", "-o", "z.safetensors")
    assert load_file(tmp_path / "z.safetensors")["labels"].tolist() == data.labels[:12].tolist()
    answer = zoo_inside(*arguments, "--given", "x.safetensors", "--labels", "5", "-o", "y.safetensors")
    assert json.loads(answer.stdout)["verified"]
    again = load_file(tmp_path / "y.safetensors")
    assert (again["images"][:, :, :14] == truth[:, :, :14]).all()
    assert again["labels"].tolist() == [5] * 12


def test_other_ways_to_compute_the_same_samples(zoo_inside, tmp_path):
    for number, arguments in enumerate([(), ("--batch-size", "3"), ("--memory", "1"), ("--dtype", "float64")]):
        zoo_inside("sample", "pixelcnn-mnist", "-n", "10", *arguments, "-o", f"{number}.safetensors")
        image = load_file(tmp_path / f"{number}.safetensors")["images"]
        assert (image == load_file(tmp_path / "0.safetensors")["images"]).all()
    assert zoo_inside("sample", "pixelcnn-mnist", "-n", "2", "--dtype", "bfloat16", "-o", "x.png").returncode == 0


def test_check(zoo_command, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def net(size=3):\n    return nn.Conv2d(1, 1, size, padding=size // 2)\n"
        "class Typo(nn.Module):\n    def __init__(self):\n        raise ValueError('oops')\n"
    )
    for target in ("mine:net", "mine.py:net"):
        answer = zoo_command("check", target, "size=5", "--json")
        assert answer.returncode == 1
        report = json.loads(answer.stdout)
        assert not report["causal"]
        assert [2, 2, 0] in report["leaks"]
        assert report["verified"] is None
    report = json.loads(zoo_command("check", "masked-conv2d", "--json").stdout)
    assert report["causal"]
    assert report["verified"]
    assert "NOT CAUSAL" in zoo_command("check", "mine:net").stdout
    answer = zoo_command("check", "mine:Typo")
    assert answer.returncode == 2
    assert "cannot be built: ValueError: oops" in answer.stderr


MISTAKES = [
    (("eval", "pixelcnn-mnits"), 2, "did you mean 'pixelcnn-mnist'"),
    (("sample", "../evil", "-o", "x.png"), 2, "no model '../evil'"),
    (("info", "../evil"), 2, "no model"),
    (("lsit",), 2, "list"),
    (
        ("sample", "cond-pixelcnn-mnist", "--labels", "10", "-o", "x.png"),
        2,
        "label 10 is no class; this model is conditional and takes labels, 10 classes from 0 to 9",
    ),
    (("sample", "cond-pixelcnn-mnist", "--labels", "a", "-o", "x.png"), 2, "write numbers, as in 0,1,2; with commas"),
    (
        ("sample", "pixelcnn-mnist", "--labels", "1", "-o", "x.png"),
        2,
        "labels are given, but this model is unconditional",
    ),
    (("sample", "pixelcnn-mnist", "-n", "0", "-o", "x.png"), 2, "0 is not in the range"),
    (("sample", "pixelcnn-mnist", "-o", "x.jpg"), 2, "must end in .png, .gif or .safetensors"),
    (("sample", "pixelcnn-mnist", "-o", "nowhere/x.png"), 2, "no folder 'nowhere'"),
    (("sample", "pixelcnn-mnist", "--keep", "3", "-o", "x.png"), 2, "name the images with --given"),
    (("sample", "pixelcnn-mnist", "--given", "tset", "-o", "x.png"), 2, "name a split"),
    (("sample", "pixelcnn-mnist", "--given", "no.safetensors", "-o", "x.png"), 2, "no.safetensors"),
    (("sample", "pixelcnn-mnist", "--temperature", "-1", "-o", "x.png"), 2, "temperature is -1"),
    (("sample", "pixelcnn-mnist", "--dtype", "bfloat16", "--verify", "-o", "x.png"), 2, "leave out --dtype bfloat16"),
    (("eval", "pixelcnn-mnist", "--data-dir", "nowhere"), 2, "no MNIST in nowhere"),
    (("eval", "pixelcnn-mnist", "--data", "mnits"), 2, "did you mean 'mnist'"),
    (("eval", "pixelcnn-mnist", "--data", "synthetic"), 2, "the model takes (1, 28, 28)"),
    (("eval", "pixelcnn-mnist", "--protocol", "none"), 2, "off the grid"),
    (("train", "nothing"), 2, "neither a file nor packaged"),
    (("train", "cond", "--data-dir", "nowhere"), 2, "no MNIST in nowhere"),
    (("train", "smoke", "model.num_classes=3"), 2, "the data has 10 classes, the model is conditional on 3"),
    (("train", "smoke", "model.image_shape=[1, 9, 9]"), 2, "images have shape (1, 8, 8)"),
    (("train", "smoke", "--output", "file/run"), 2, "file"),
    (("train", "smoke", "name=../evil", "seed=-1", "training.epochs=x"), 2, "training.epochs: given 'x'"),
    (("check", "nothing:Class"), 2, "does not import"),
    (("check", "zoo.layers:Nothing"), 2, "zoo.layers has no 'Nothing'"),
    (("check", "masked-conv2d", "mask_type=C"), 2, "mask_type: Input should be 'A' or 'B'"),
    (("check", "masked-conv2d", "masktype=A"), 2, "masktype"),
    (("check", "pixelcnn", "channels=0"), 2, "channels"),
    (("check", "pixelcnn", "block=5"), 2, "block"),
    (("check", "zoo.errors:RequestError"), 2, "name a torch.nn.Module"),
    (("sample", "cond-pixelcnn-mnist", "--labels", "9" * 20, "-o", "x.png"), 2, "takes labels, 10 classes from 0 to 9"),
    (("train", "smoke", "model.block={name: residual-block, kernelsize: 4}", "model.chanels=3"), 2, "block.kernelsize"),
    (("check", "pixelcnn", "channels"), 2, "write key=value"),
    (("check", "pixelcnn", "--image-shape", "28"), 2, "write C,H,W"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES, ids=lambda value: str(value)[:60])
def test_a_mistake_is_answered_and_nothing_written(zoo_inside, tmp_path, arguments, code, message):
    (tmp_path / "file").write_text("")
    answer = zoo_inside(*arguments)
    assert answer.returncode == code, answer.stderr
    assert message in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_public_names():
    assert zoo.__version__
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        zoo.laod  # noqa: B018
