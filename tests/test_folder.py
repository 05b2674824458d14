import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import zoo
from zoo import catalog, folder
from zoo.card import card
from zoo.evaluation import evaluate
from zoo.registry import DATA

ARGUMENTS = {"channels": 4, "layers": 1, "image_shape": [1, 5, 5], "num_classes": 3}


@pytest.fixture
def saved(tmp_path):
    model = zoo.create("pixelcnn", **ARGUMENTS)
    folder.save(model, tmp_path, {"name": "mine", "architecture": "pixelcnn", "model_args": ARGUMENTS})
    return tmp_path, model


def rewrite(path, **changes):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def reseal(path):
    """Make the config describe the weights that are there, as somebody who tampers would."""
    rewrite(path, weights={"file": "model.safetensors", "sha256": folder._sha256(path / "model.safetensors")})


def test_what_was_saved_is_loaded_bit_for_bit(saved):
    path, model = saved
    again = zoo.load(path)
    assert not again.training
    assert (path / "model.safetensors").stat().st_mode & 0o044 == 0o044
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    x, labels = torch.zeros(3, 1, 5, 5), [0, 1, 2]
    torch.testing.assert_close(again.log_prob(x, labels), model.log_prob(x, labels))
    assert torch.equal(again.log_prob(x, labels), zoo.load(path).log_prob(x, labels))


def test_loading_leaves_the_random_state_alone(saved):
    before = torch.get_rng_state()
    zoo.load(saved[0])
    assert torch.equal(before, torch.get_rng_state())


def test_truncated_weights_are_refused_at_every_length(saved):
    weights = saved[0] / "model.safetensors"
    whole = weights.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(folder.FolderError, match=rf"sha256.*\({length} bytes\).*damaged, truncated"):
            zoo.load(saved[0])
        reseal(saved[0])
        with pytest.raises(folder.FolderError, match="is no safetensors file"):
            zoo.load(saved[0])


def test_a_flipped_bit_is_noticed(saved):
    weights = saved[0] / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(folder.FolderError, match="damaged"):
        zoo.load(saved[0])


def test_a_pickle_is_refused_and_not_run(saved, tmp_path):
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (canary.touch, ())

    (saved[0] / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    reseal(saved[0])
    with pytest.raises(folder.FolderError, match="is no safetensors file"):
        zoo.load(saved[0])
    assert not canary.exists()


def test_every_mismatch_of_the_weights_is_listed(saved):
    weights = saved[0] / "model.safetensors"
    state = load_file(weights)
    names = sorted(state)
    state["stranger"] = torch.zeros(1)
    state[names[0]] = torch.zeros(2, 2)
    del state[names[1]]
    save_file(state, weights)
    reseal(saved[0])
    with pytest.raises(folder.FolderError) as error:
        zoo.load(saved[0])
    for part in (f"{names[1]} is missing", "stranger is not in the model", f"{names[0]} has shape (2, 2), the model"):
        assert part in str(error.value)


def test_weights_that_are_not_finite_are_refused(saved):
    weights = saved[0] / "model.safetensors"
    state = load_file(weights)
    state["net.0.0.bias"][1] = torch.nan
    save_file(state, weights)
    reseal(saved[0])
    with pytest.raises(folder.FolderError, match=r"net\.0\.0\.bias holds values that are not finite"):
        zoo.load(saved[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "os.system"}, "no model is named 'os.system'"),
        ({"architecture": "../pixelcnn"}, "no model is named"),
        ({"model_args": ARGUMENTS | {"chanels": 3}}, "chanels: Extra inputs"),
        ({"model_args": ARGUMENTS | {"channels": "4"}}, "channels: Input should be a valid integer"),
        ({"model_args": ARGUMENTS | {"channels": 10**6}}, "has shape"),
        ({"model_args": ARGUMENTS | {"channels": 10**12}}, "architecture 'pixelcnn'.*overflow"),
        ({"model_args": ARGUMENTS | {"layers": 10**9}}, "layers: Input should be less than or equal to 1000"),
        ({"model_args": ARGUMENTS | {"kernel_size": 4}}, "must be odd"),
        ({"model_args": []}, "model_args: Input should be an object"),
        ({"weights": {}}, "weights.sha256: Field required"),
        ({"results": [{"x": 1}]}, "results.0.dataset: Field required"),
        ({"model_args": ARGUMENTS | {"image_shape": [1, 5, 10**5]}}, "less than or equal to 1024"),
        ({"model_args": ARGUMENTS | {"block": {"name": "residual-block", "norm": 5}}}, "architecture 'pixelcnn'"),
        ({"format": 99}, "pip install -U pixelzoo"),
    ],
)
def test_a_config_is_not_trusted(saved, changes, message):
    rewrite(saved[0], **changes)
    with pytest.raises(folder.FolderError, match=message):
        zoo.load(saved[0])


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, "<html>"])
def test_a_config_that_is_none_is_refused(saved, content):
    (saved[0] / "config.json").write_text(content)
    with pytest.raises(folder.FolderError, match="is not"):
        zoo.load(saved[0])


def test_missing_files_are_named(tmp_path):
    with pytest.raises(folder.FolderError, match=r"config.json and model.safetensors missing"):
        zoo.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cond-pixelcnn-mnits", "did you mean 'cond-pixelcnn-mnist'"),
        ("pixelcnn", "architecture without weights"),
        ("../weights", "no model '../weights'"),
        ("", "no model ''"),
    ],
)
def test_an_unknown_model_gets_close_matches(name, message):
    with pytest.raises(catalog.UnknownModelError, match=message):
        zoo.load(name)


def test_create_takes_the_arguments_of_a_trained_model():
    model = zoo.create("cond-pixelcnn-mnist", channels=4)
    assert model.num_classes == 10
    assert model.net[0][0].out_channels == 4


def test_a_copied_folder_is_the_model(tmp_path):
    copied = shutil.copytree(catalog.NAMED / "pixelcnn-mnist", tmp_path / "copy")
    x = torch.zeros(1, 1, 28, 28)
    assert torch.equal(zoo.load(copied).log_prob(x), zoo.load("pixelcnn-mnist").log_prob(x))


@pytest.mark.parametrize("name", catalog.trained())
def test_bundled_models_agree_with_their_cards_on_part_of_the_test_set(name):
    """All 10,000 images take a minute: that is `zoo eval`. The first 1,000 must lie within their spread."""
    config = catalog.describe(name)
    stated = next(result for result in config["results"] if result["split"] == "test")
    data = DATA.get(config["dataset"])("test")
    part = type(data)(data.images[:1000], data.labels[:1000], data.num_classes)
    result = evaluate(zoo.load(name), part, dataset="mnist", split="test", protocol=config["protocol"])
    assert result.nats_per_image == pytest.approx(stated["nats_per_image"], abs=4 * result.nats_std_error)
    assert f"{stated['nats_per_image']:.2f}" in (catalog.find(name) / "README.md").read_text()


@pytest.mark.parametrize("name", catalog.trained())
def test_bundled_cards_are_what_the_zoo_writes(name):
    home = catalog.find(name)
    assert (home / "README.md").read_text() == card(folder.read_config(home), (home / "recipe.yaml").read_text())
