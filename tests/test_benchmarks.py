"""The benchmarks compare what they say they compare; how fast either side is, is no matter of tests."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import zoo
from benchmarks import conditions, curves, measure, precision, prior, sampling, scaling, textbook, training, ways
from benchmarks.course import Course, labels_for, named
from zoo.causal import Context
from zoo.data import ImageSet
from zoo.layers import ConditionalBias, MaskedConv2d
from zoo.registry import DATA

SMALL = Course(8, 2, (1, 6, 6)).eval()


@pytest.mark.parametrize("model", [SMALL, zoo.load("cond-pixelcnn-mnist")], ids=["course", "cond"])
def test_the_textbook_has_the_same_weights_in_full_kernels(model):
    plain = textbook.to_sample(model)
    assert not [part for part in plain.modules() if isinstance(part, MaskedConv2d)]
    kernels = [part.kernel_size for part in plain.modules() if type(part) is nn.Conv2d]
    assert kernels == [part.kernel_size for part in model.modules() if isinstance(part, MaskedConv2d)]
    x, context = torch.rand(3, *model.image_shape).round(), Context(labels=labels_for(model, 3))
    with torch.no_grad():
        torch.testing.assert_close(plain(x, context), model(x, context), atol=1e-4, rtol=1e-4)


def test_the_textbook_draws_pixel_after_pixel():
    plain = textbook.to_sample(SMALL)
    x = torch.zeros(200, 1, 6, 6)
    torch.manual_seed(0)
    with torch.no_grad():
        for position in range(36):
            textbook.draw_pixel(plain, x, position, Context())
    mean = SMALL.sample(200).mean((0, 1))
    assert (x.mean((0, 1)) - mean).abs().max() < 0.2
    assert set(x.unique().tolist()) == {0.0, 1.0}


def test_the_textbook_trains_with_masks_and_batch_normalization():
    plain = textbook.to_train(SMALL).train()
    norms = [part for part in plain.modules() if isinstance(part, nn.BatchNorm2d)]
    layers = [part for part in plain.modules() if isinstance(part, textbook.TextbookConv2d)]
    assert len(norms) == len(layers) - 1 == 3
    optimizer = torch.optim.SGD(plain.parameters(), lr=1.0)
    plain(torch.rand(4, 1, 6, 6)).sum().backward()
    optimizer.step()
    plain(torch.rand(4, 1, 6, 6))
    assert not layers[1].weight[:, :, 2].any()
    assert layers[1].weight[:, :, 0].all()


def test_sampling_is_measured():
    result = sampling.measure(SMALL, batch=3, rounds=1, passes=2)
    assert result["verified"]
    assert result["textbook_passes_timed"] == 2
    assert result["speedup"] == result["naive_seconds"] / result["fast_seconds"]
    assert result["fast_over_forward"] == result["fast_seconds"] / result["forward_seconds"]


@pytest.mark.parametrize("side", training.SIDES)
def test_both_sides_of_the_training_learn(side):
    torch.manual_seed(0)
    model = zoo.create("pixelcnn", channels=8, layers=1, image_shape=(1, 8, 8), num_classes=10)
    steps = training.SIDES[side](model, training.recipe_for("course", 16), DATA.get("synthetic")("train"))
    losses = [loss for _ in range(50) for loss in steps()]
    assert len(losses) == 50 * training.STEPS
    assert sum(losses[-8:]) < 0.9 * sum(losses[:8])


def test_models_and_recipes_by_name():
    # 7x7 type A, nine 3x3 type B and a 1x1 layer of 128 channels, each with its bias.
    assert sum(part.numel() for part in named("course").parameters()) == 50 * 128 + 9 * (9 * 128 + 1) * 128 + 129
    assert training.recipe_for("cond-pixelcnn-mnist", 32, "float32").training.batch_size == 32


def test_slopes_table_and_plot(tmp_path):
    answer = CliRunner().invoke(
        scaling.main,
        ["--sides", "4,6", "--batches", "1,2", "--channels", "4", "--layers", "1", "-o", str(tmp_path), "--json"],
    )
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert [(row["side"], row["batch"]) for row in result["rows"]] == [(4, 1), (4, 2), (6, 1), (6, 2)]
    assert result["slopes"].keys() == {"1", "2"}
    assert (tmp_path / "scaling.md").read_text().count("\n") == 6
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


def test_loss_curves_are_plotted(tmp_path):
    precision.plot({"float32": [3.0, 2.0], "bfloat16": [3.0, 2.1]}, "title", tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_validation_curves_are_compared(tmp_path):
    for name, nats in (("plain", [90.0, 85.5]), ("gated", [88.0, 82.25])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"parameters": 1234}))
        lines = [
            {"epoch": 1 + n, "seconds": 90.0 * (1 + n), "validation_nats": value, "validation_std_error": 0.5}
            for n, value in enumerate(nats)
        ]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [str(tmp_path / name) for name in ("plain", "gated")]
    answer = CliRunner().invoke(curves.main, [*runs, "-o", str(tmp_path / "x.png")])
    assert answer.exit_code == 0, answer.output
    assert "| gated (1,234 parameters) | 2 | 3.0 | 82.25 ± 0.50 |" in answer.stdout
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_both_ways_over_a_gated_model_are_timed():
    options = ["--batches", "1,2", "--channels", "4", "--layers", "1", "--side", "6", "--rounds", "1", "--json"]
    answer = CliRunner().invoke(ways.main, options)
    assert answer.exit_code == 0, answer.output
    results = json.loads(answer.stdout)
    assert [result["batch"] for result in results] == [1, 2]
    # The first layer sees 3 columns to the right, the block one more: slope 5 from a lag of 1.
    assert (results[0]["slope_fronts"], results[0]["rows_fronts"]) == (6 + 5 * 5, 36)
    assert results[0]["slope_over_rows"] == results[0]["slope_seconds"] / results[0]["rows_seconds"]


def test_peaks_of_memory_are_told_apart():
    small, large = (measure.peak_bytes(hold, mebibytes) for mebibytes in (16, 400))
    assert large > small
    assert 390 * 2**20 < large < 600 * 2**20


class Hold:
    def __init__(self, mebibytes):
        self.mebibytes = mebibytes

    def __call__(self):
        return torch.ones(self.mebibytes * 2**18).sum()


def hold(mebibytes):
    return Hold(mebibytes)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_what_a_condition_is_worth(dropout):
    """A model that knows by heart which class is white: everything, under its own label; nothing, without."""
    torch.manual_seed(0)
    model = zoo.create(
        "pixelcnn", channels=4, layers=1, image_shape=(1, 4, 4), num_classes=2, condition_dropout=dropout
    )
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    # The last layer's bias of each class alone makes the logits.
    bias = [layer for layer in model.modules() if isinstance(layer, ConditionalBias)][-1]
    nn.init.constant_(bias.weight[0], -9)
    nn.init.constant_(bias.weight[1], 9)
    labels = torch.tensor([0, 1] * 8)
    images = (255 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    data = ImageSet(images, labels, 2)
    where = {"dataset": "mine", "split": "test", "protocol": "threshold"}
    for worth in (conditions.of_images(model, data, **where), conditions.of_samples(model, data)):
        assert worth.own < 0.1
        assert worth.others > 100
        assert worth.none == (pytest.approx(16 * math.log(2)) if dropout else None)


def test_priors_of_several_widths_are_compared(tmp_path):
    options = ["--recipe", "smoke", "training.epochs=1", "--stds", "0.001,1", "-o", str(tmp_path / "x.png"), "--json"]
    answer = CliRunner().invoke(prior.main, options)
    assert answer.exit_code == 0, answer.output
    narrow, wide, none = json.loads(answer.stdout)
    assert (narrow["std"], wide["std"], none["std"]) == (0.001, 1, None)
    assert narrow["validation_nats"] > wide["validation_nats"]
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
