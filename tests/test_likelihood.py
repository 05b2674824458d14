import itertools

import pytest
import torch

import zoo
from zoo.registry import LIKELIHOODS


def all_images(levels, side):
    grid = torch.tensor(list(itertools.product(range(levels), repeat=side * side)), dtype=torch.float64)
    return (grid / (levels - 1)).view(-1, 1, side, side)


def tiny(**arguments):
    torch.manual_seed(0)
    model = zoo.create("pixelcnn", channels=4, layers=2, image_shape=(1, 3, 3), **arguments).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def test_the_probabilities_of_all_images_sum_to_one():
    x = all_images(2, 3)
    assert len(x) == 512
    torch.testing.assert_close(tiny().log_prob(x).exp().sum().item(), 1.0)
    model = tiny(num_classes=3)
    for label in range(3):
        torch.testing.assert_close(model.log_prob(x, torch.full((512,), label)).exp().sum().item(), 1.0)


def test_log_prob_multiplies_the_conditionals_out():
    model, x = tiny(), all_images(2, 3)[[5, 311]]
    for image, logp in zip(x, model.log_prob(x).tolist(), strict=True):
        product, seen = 1.0, torch.zeros(1, 1, 3, 3, dtype=torch.float64)
        for row, column in itertools.product(range(3), repeat=2):
            q = torch.sigmoid(model(seen)[0, 0, row, column]).item()
            product *= q if image[0, row, column] == 1 else 1 - q
            seen[0, 0, row, column] = image[0, row, column]
        assert torch.tensor(product).log().item() == pytest.approx(logp, rel=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS.names())
def test_draws_have_the_probabilities_that_log_prob_gives(name):
    likelihood = LIKELIHOODS.build(name)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, likelihood.output_channels(1), 1, 1, generator=generator, dtype=torch.float64)
    # The inverse CDF of an even grid of uniform numbers: frequencies are probabilities, to the grid's width.
    uniform = ((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000).view(-1, 1, 1, 1)
    values, margin = likelihood.quantile(logits.expand(10_000, -1, -1, -1), uniform)
    assert (values.flatten().diff() >= 0).all()
    assert (margin >= 0).all()
    for level in range(likelihood.levels):
        value = torch.full((1, 1, 1, 1), level / (likelihood.levels - 1), dtype=torch.float64)
        expected = likelihood.log_prob(logits, value).exp().item()
        assert (values == value).double().mean().item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4), None, r"take[s]? \(B, 1, 3, 3\)"),
        (torch.full((2, 1, 3, 3), 0.5), None, "off the grid of 2 levels"),
        (torch.full((2, 1, 3, 3), 2.0), None, "off the grid"),
        (torch.full((2, 1, 3, 3), torch.nan), None, "off the grid"),
        (torch.zeros(2, 1, 3, 3), [0, 1], "takes no labels"),
    ],
)
def test_refuses_what_it_has_no_likelihood_for(x, labels, message):
    with pytest.raises(ValueError, match=message):
        tiny().log_prob(x, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(None, "pass labels, 2 of 0 to 2"), ([0, 3], "label 3 is none"), ([0], "pass one each"), ([0.5, 1], "integers")],
)
def test_refuses_labels_that_are_none(labels, message):
    with pytest.raises(ValueError, match=message):
        tiny(num_classes=3).log_prob(torch.zeros(2, 1, 3, 3), labels)
