import math

import pytest
import torch

import zoo
from zoo.data import ImageSet, to_grid
from zoo.evaluation import evaluate
from zoo.registry import DATA

WHERE = {"dataset": "synthetic", "split": "test"}


def coin():
    """Every pixel is a fair coin: the likelihood is known without a model."""
    model = zoo.create("pixelcnn", channels=2, layers=1, image_shape=(1, 8, 8))
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def test_a_fair_coin_has_one_bit_per_dimension():
    result = evaluate(coin(), DATA.get("synthetic")("test"), protocol="threshold", **WHERE)
    assert result.bits_per_dim == pytest.approx(1)
    assert result.nats_per_image == pytest.approx(64 * math.log(2))
    assert result.nats_std_error == pytest.approx(0, abs=1e-6)
    assert (result.images, result.split, result.protocol) == (256, "test", "threshold")


def test_the_standard_error_is_that_of_the_mean():
    model, data = coin(), DATA.get("synthetic")("test")
    torch.nn.init.constant_(model.net[-1].bias, -1.0)
    result = evaluate(model, data, protocol="threshold", batch_size=7, **WHERE)
    nats = -model.log_prob((data.images > 127).float()).double()
    assert result.nats_per_image == pytest.approx(nats.mean().item())
    assert result.nats_std_error == pytest.approx(nats.std().item() / 16)


def test_dynamic_bits_depend_on_the_seed_alone():
    model, data = coin(), DATA.get("synthetic")("test")
    torch.nn.init.constant_(model.net[-1].bias, -1.0)
    first, again, other = (
        evaluate(model, data, protocol="dynamic", seed=seed, batch_size=size, **WHERE).nats_per_image
        for seed, size in ((0, 100), (0, 100), (1, 100))
    )
    assert first == again
    assert first != other


def test_several_draws_are_averaged_image_by_image():
    model, data = coin(), DATA.get("synthetic")("test")
    torch.nn.init.constant_(model.net[-1].bias, -1.0)
    result = evaluate(model, data, protocol="dynamic", seed=3, draws=5, batch_size=60, **WHERE)
    generator = torch.Generator().manual_seed(3)
    per_draw = torch.stack(
        [
            torch.cat([-model.log_prob(to_grid(part, "dynamic", generator)).double() for part in data.images.split(60)])
            for _ in range(5)
        ]
    )
    assert len(per_draw.mean(1).unique()) == 5
    assert result.nats_per_image == pytest.approx(per_draw.mean().item())
    assert result.nats_std_error == pytest.approx(per_draw.mean(0).std().item() / 16)
    assert result.draws == 5
    # The other protocols have nothing to draw.
    assert evaluate(model, data, protocol="threshold", draws=5, **WHERE).draws == 1


def test_conditions_are_those_of_the_image():
    data = DATA.build({"name": "moments", "of": {"name": "coarse", "of": "synthetic", "factor": 2}}, "test", None)
    model = zoo.create(
        "pixelcnn", channels=4, layers=1, image_shape=(1, 8, 8), num_classes=10, vector_size=4, map_channels=1
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    result = evaluate(model, data, protocol="threshold", batch_size=60, **WHERE)
    nats = -model.log_prob(to_grid(data.images, "threshold"), data.labels, vectors=data.vectors, maps=data.maps).mean()
    assert result.nats_per_image == pytest.approx(nats.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({"vector_size": 4}, "the data has no vectors, the model is conditional on vectors of size 4"),
        (
            {"map_channels": 2},
            "the data has maps of size 1, the model is conditional on maps of size 2; set the model's map",
        ),
        ({"num_classes": 3}, "the data has 10 classes, the model is conditional on 3"),
    ],
)
def test_data_without_the_condition_is_refused(size, message):
    data = DATA.build({"name": "coarse", "of": "synthetic", "factor": 2}, "test", None)
    model = zoo.create("pixelcnn", channels=2, layers=1, image_shape=(1, 8, 8), **size)
    with pytest.raises(ValueError, match=message):
        evaluate(model, data, protocol="threshold", **WHERE)


def test_no_images_have_no_likelihood():
    with pytest.raises(ValueError, match="holds no images"):
        evaluate(coin(), ImageSet(torch.zeros(0, 1, 8, 8, dtype=torch.uint8)), protocol="threshold", **WHERE)
