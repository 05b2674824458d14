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
        (torch.zeros(2, 1, 3, 3), [0, 1], "labels are given, but this model is unconditional"),
    ],
)
def test_refuses_what_it_has_no_likelihood_for(x, labels, message):
    with pytest.raises(ValueError, match=message):
        tiny().log_prob(x, labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "no labels are given.*3 classes from 0 to 2; pass labels"),
        ([0, 3], "label 3 is no class.*3 classes from 0 to 2"),
        ([0, -1], "label -1 is no class"),
        ([0], r"labels have shape \(1,\) for 2 images; pass \(2,\), one each"),
        ([0.5, 1], "labels are torch.float32, not integers"),
        (["a", "b"], "labels are .*too many dimensions|labels are"),
    ],
)
def test_refuses_labels_that_are_none(labels, message):
    with pytest.raises(ValueError, match=message):
        tiny(num_classes=3).log_prob(torch.zeros(2, 1, 3, 3), labels)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ({}, "no vectors are given, but this model is conditional and takes vectors .B, 2. and maps .B, 1, 3, 3."),
        ({"vectors": torch.zeros(2, 2)}, "no maps are given"),
        ({"vectors": torch.zeros(2, 3), "maps": torch.zeros(2, 1, 3, 3)}, r"vectors have shape \(2, 3\) for 2 images"),
        (
            {"vectors": torch.full((2, 2), torch.nan), "maps": torch.zeros(2, 1, 3, 3)},
            "vectors hold values that are not",
        ),
        ({"vectors": torch.zeros(2, 2), "maps": torch.zeros(2, 1, 4, 4)}, r"maps have shape \(2, 1, 4, 4\)"),
        ({"vectors": torch.zeros(2, 2), "maps": torch.zeros(1, 3, 3, dtype=torch.cfloat)}, "not real numbers"),
        ({"labels": 1}, "labels are given, but this model is conditional and takes vectors"),
    ],
)
def test_refuses_conditions_that_are_none(condition, message):
    model = tiny(vector_size=2, map_channels=1)
    with pytest.raises(ValueError, match=message):
        model.log_prob(torch.zeros(2, 1, 3, 3), **condition)


def test_one_condition_may_stand_for_all():
    model, x = tiny(num_classes=3, vector_size=2, map_channels=1), torch.zeros(4, 1, 3, 3)
    each = {"labels": torch.full((4,), 2), "vectors": torch.ones(4, 2), "maps": torch.ones(4, 1, 3, 3)}
    one = {"labels": 2, "vectors": [1.0, 1.0], "maps": torch.ones(1, 3, 3)}
    assert torch.equal(model.log_prob(x, **each), model.log_prob(x, **one))


def test_a_model_that_knows_images_without_a_condition_gives_their_likelihood():
    model, x = tiny(num_classes=3, condition_dropout=0.2), all_images(2, 3)
    torch.testing.assert_close(model.log_prob(x).exp().sum().item(), 1.0)
    assert torch.equal(model.log_prob(x), model.log_prob(x, labels=-1))
    assert not torch.equal(model.log_prob(x), model.log_prob(x, labels=1))
    with pytest.raises(ValueError, match="there is no condition to drop"):
        tiny(condition_dropout=0.2)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_labels_may_be_small_integers(dtype, dropout):
    model, x = tiny(num_classes=300, condition_dropout=dropout), torch.zeros(2, 1, 3, 3)
    assert torch.equal(model.log_prob(x, torch.tensor([1, 2], dtype=dtype)), model.log_prob(x, [1, 2]))


def test_the_probabilities_of_all_coloured_images_sum_to_one():
    # 2 x 1 pixels of 2 channels of 3 levels: the channels of a pixel follow each other.
    torch.manual_seed(0)
    for name in ("pixelcnn", "gated-pixelcnn"):
        likelihood = {"name": "categorical", "levels": 3}
        model = zoo.create(name, channels=4, layers=2, image_shape=(2, 2, 1), likelihood=likelihood).double()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.7)
        x = torch.tensor(list(itertools.product(range(3), repeat=4)), dtype=torch.float64).view(-1, 2, 2, 1) / 2
        logp = model.log_prob(x)
        torch.testing.assert_close(logp.exp().sum().item(), 1.0)
        # The second channel depends on the first: the four values are not independent.
        first = x[:, 0, 0, 0] == 0
        second = x[:, 1, 0, 0] == 0
        p = logp.exp()
        assert abs(p[first & second].sum() - p[first].sum() * p[second].sum()) > 1e-4
