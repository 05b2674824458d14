import math

import pytest
import torch

import zoo
from zoo.data import ImageSet
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


def test_no_images_have_no_likelihood():
    with pytest.raises(ValueError, match="holds no images"):
        evaluate(coin(), ImageSet(torch.zeros(0, 1, 8, 8, dtype=torch.uint8)), protocol="threshold", **WHERE)
