"""The identities of docs/theory.md, on real outputs, each against a computation of its own."""

import itertools
import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import zoo
from zoo import training
from zoo.causal import Sequential
from zoo.data import ImageSet
from zoo.layers import MaskedConv2d
from zoo.likelihoods.bernoulli import Bernoulli
from zoo.models import PixelModel
from zoo.recipe import RecipeError, find_recipe, load_recipe
from zoo.registry import LIKELIHOODS, MODELS


def every_image(levels, *shape):
    """All images of so many levels, in [0, 1]."""
    values = torch.tensor(list(itertools.product(range(levels), repeat=math.prod(shape))))
    return values.view(-1, *shape) / (levels - 1)


def fresh(name, shape, **arguments):
    torch.manual_seed(0)
    return zoo.create(name, channels=6, layers=2, image_shape=shape, **arguments).double().eval()


@pytest.mark.parametrize("name", MODELS.names())
@pytest.mark.parametrize(("levels", "shape"), [(2, (1, 3, 3)), (3, (1, 2, 3)), (2, (3, 2, 1))])
def test_the_probabilities_of_all_images_sum_to_one(name, levels, shape):
    likelihood = "bernoulli" if levels == 2 else {"name": "categorical", "levels": levels}
    model = fresh(name, shape, likelihood=likelihood)
    images = every_image(levels, *shape).double()
    with torch.no_grad():
        assert model.log_prob(images).exp().sum().item() == pytest.approx(1, abs=1e-12)


def conditionals(model, image, context):
    """p(x_i | x_<i) of every pixel, each by a pass over an image of which nothing later is known."""
    height, width = model.image_shape[1:]
    known = torch.zeros_like(image)
    for row, column in itertools.product(range(height), range(width)):
        with torch.no_grad():
            q = 1 / (1 + math.exp(-model(known, context)[0, 0, row, column].item()))
        x = image[0, 0, row, column].item()
        yield q if x == 1 else 1 - q
        known[0, 0, row, column] = x


@pytest.mark.parametrize("name", ["pixelcnn-mnist", "cond-pixelcnn-mnist"])
def test_nll_is_the_product_of_conditionals_and_the_cross_entropy(name):
    model = zoo.load(name).double()
    x = model.sample(1, labels=3 if model.conditional else None, seed=1)
    context = model.condition(1, **({"labels": 3} if model.conditional else {}))
    nll = -math.log(math.prod(conditionals(model, x, context)))
    with torch.no_grad():
        logits = model(x, context)
        log_prob = model.log_prob(x, labels=context.labels).item()
    assert -log_prob == pytest.approx(nll, rel=1e-9)
    for entropy in (
        F.binary_cross_entropy_with_logits(logits, x, reduction="sum"),
        F.binary_cross_entropy_with_logits(logits, x) * x.numel(),
    ):
        assert entropy.item() == pytest.approx(nll, rel=1e-9)


def test_256_levels_cost_the_cross_entropy_with_one_hot_targets():
    torch.manual_seed(0)
    logits = torch.randn(2, 256, 3, 3, dtype=torch.float64)
    values = torch.randint(256, (2, 1, 3, 3))
    one_hot = F.one_hot(values[:, 0], 256).double()
    entropy = -(one_hot * logits.softmax(1).log().movedim(1, -1)).sum((1, 2, 3))
    log_prob = LIKELIHOODS.build("categorical").log_prob(logits, values / 255.0)
    torch.testing.assert_close(-log_prob.double(), entropy, rtol=1e-6, atol=0)


class Logistic(PixelModel):
    """Two pixels, two numbers: p(x_1 = 1) = sigma(b), p(x_2 = 1 | x_1) = sigma(b + w x_1): logistic regression."""

    def __init__(self):
        super().__init__((1, 1, 2), Bernoulli())
        self.net = Sequential(MaskedConv2d("A", 1, 1, (1, 3)))

    def forward(self, x, context=None):
        return self.net(x, context)


def smoke(*overrides):
    return load_recipe(find_recipe("smoke"), overrides)


def images_of(pairs):
    return torch.tensor(pairs, dtype=torch.uint8).view(-1, 1, 1, 2) * 255


def test_the_gradient_of_training_is_that_of_map():
    """d/dw of (3) over N, of J = sum of nats - log p(w), against what a step follows."""
    model = fresh("pixelcnn", (1, 4, 4))
    images, std = torch.rand(20, 1, 4, 4).round().double(), 0.3
    weights = list(model.parameters())
    prior = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), std)
    posterior = model.likelihood.log_prob(model(images), images).sum() + sum(prior.log_prob(w).sum() for w in weights)
    expected = torch.autograd.grad(-posterior / len(images), weights)
    (-model.likelihood.log_prob(model(images), images).mean()).backward()
    training.add_decay(model, smoke(f"prior.gaussian.std={std}").weight_decay(len(images)))
    for weight, gradient in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-12, atol=1e-15)


def map_by_newton(pairs, std):
    """The b and w that maximize p(w | X), by Newton's method on the posterior of two numbers."""
    x1, x2 = torch.tensor(pairs, dtype=torch.float64).T
    theta = torch.zeros(2, dtype=torch.float64)

    def energy(theta):
        b, w = theta
        nats = F.softplus(b) - x1 * b + F.softplus(b + w * x1) - x2 * (b + w * x1)
        return nats.sum() + (theta**2).sum() / (2 * std**2)

    for _ in range(30):
        gradient = torch.autograd.functional.jacobian(energy, theta)
        theta = theta - torch.linalg.solve(torch.autograd.functional.hessian(energy, theta), gradient)
    assert torch.autograd.functional.jacobian(energy, theta).abs().max() < 1e-9
    return theta


@pytest.mark.parametrize("std", [0.2, 1.0])
@pytest.mark.parametrize("clip", ["0.05", "null"])
def test_training_finds_the_map_of_a_logistic_regression(std, clip):
    pairs = [(1, 1)] * 6 + [(1, 0)] * 2 + [(0, 0)] * 3 + [(0, 1)]
    data = ImageSet(images_of(pairs))
    precise = ["optimizer.learning_rate=0.03", "training.precision=float32"]
    recipe = smoke(f"prior.gaussian.std={std}", f"optimizer.clip={clip}", *precise)
    torch.manual_seed(0)
    run = training.start(Logistic(), recipe)
    for _ in range(1500):
        training.step(recipe, run, data, torch.arange(len(pairs)), steps=1500)
    conv = run.model.net[0]
    found = torch.stack([conv.bias[0], conv.weight[0, 0, 0, 0]]).detach().double()
    torch.testing.assert_close(found, map_by_newton(pairs, std), rtol=1e-4, atol=1e-5)
    assert conv.weight[0, 0, 0, 1:].count_nonzero() == 0  # the dead ones


def test_single_images_lead_to_the_map_unless_they_are_clipped_one_by_one():
    pairs = [(1, 1)] * 6 + [(1, 0)] * 2 + [(0, 0)] * 3 + [(0, 1)]
    data, steps = ImageSet(images_of(pairs)), 200 * len(pairs)
    away = {}
    for clip in ("null", "0.3"):
        precise = ["optimizer.learning_rate=0.03", "training.precision=float32", f"optimizer.clip={clip}"]
        recipe = smoke("prior.gaussian.std=1", *precise)
        torch.manual_seed(0)
        run = training.start(Logistic(), recipe)
        for number in range(steps):
            epoch, place = divmod(number, len(pairs))
            image = training.order(0, epoch, len(pairs))[place]
            training.step(recipe, run, data, image[None], steps=steps)
        conv = run.model.net[0]
        found = torch.stack([conv.bias[0], conv.weight[0, 0, 0, 0]]).detach().double()
        away[clip] = (found - map_by_newton(pairs, 1.0)).abs().max().item()
    assert away["null"] < 0.02
    assert away["0.3"] > 0.5


def test_a_prior_and_its_weight_decay_train_the_same_weights(zoo_inside, tmp_path):
    prior = ("prior.gaussian.std=0.1",)
    plan = json.loads(zoo_inside("train", "smoke", "--dry-run", "--json", *prior).stdout)
    assert plan["weight_decay"] == 1 / (plan["images"] * 0.1**2)
    spelled = (f"optimizer.weight_decay={plan['weight_decay']!r}",)
    states = []
    for name, overrides in {"prior": prior, "decay": spelled, "none": ()}.items():
        answer = zoo_inside("train", "smoke", *overrides, "training.epochs=4", "--output", name)
        assert answer.returncode == 0, answer.stderr
        states.append(load_file(tmp_path / name / "model.safetensors"))
    with_prior, with_decay, without = states
    assert all(torch.equal(with_prior[name], with_decay[name]) for name in with_prior)
    assert sum(float(weight.square().sum()) for weight in with_prior.values()) < sum(
        float(weight.square().sum()) for weight in without.values()
    )
    assert "std: 0.1" in (tmp_path / "prior" / "recipe.yaml").read_text()
    assert "prior" not in (tmp_path / "decay" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["prior.gaussian.std=0.5", "optimizer.weight_decay=1e-4"],
            "optimizer.weight_decay: the prior is a weight decay",
        ),
        (["prior.gaussian.std=0"], "prior.gaussian.std: given 0; must be greater than or equal to 0.000001"),
        (["prior.gaussian.std=1e-170"], "prior.gaussian.std: given 1e-170; must be greater than or equal to 0.000001"),
        (["prior.gaussian.std=10000000"], "prior.gaussian.std: given 10000000; must be less than or equal to 1000000"),
        (["prior.gauss.std=1"], "prior.gauss: unknown key; did you mean 'gaussian'?"),
        (["prior.gaussian.std=0.5", "optimizer.name=adamw"], "optimizer.name: unknown key"),
    ],
)
def test_a_prior_that_makes_no_sense_is_refused(overrides, told):
    with pytest.raises(RecipeError, match=told.replace("?", r"\?")):
        smoke(*overrides)
