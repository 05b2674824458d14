import math

import pytest
import torch
from torch import nn

import zoo
from zoo.registry import MODELS
from zoo.sampling import noise, sample, verify

LABELS = torch.arange(256) % 10


def small(**arguments):
    torch.manual_seed(1)
    return zoo.create("pixelcnn", channels=8, layers=3, image_shape=(1, 8, 8), **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 3, 9), (1, 6, 2), (3, 5, 5)])
def test_fast_is_naive_pixel_for_pixel(dtype, shape):
    torch.manual_seed(2)
    model = zoo.create("pixelcnn", channels=8, layers=3, image_shape=shape, num_classes=10).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    labels = LABELS[:40]
    fast = sample(model, 40, labels=labels, seed=3)
    assert 0.05 < fast.mean() < 0.95
    assert torch.equal(fast, sample(model, 40, labels=labels, seed=3, sampler="naive"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", zoo.list_models("*mnist*"))
def test_256_samples_of_every_trained_model_are_verified(name, dtype):
    model = zoo.load(name).to(dtype)
    labels = LABELS if model.num_classes else None
    x = model.sample(256, labels, seed=0)
    report = verify(model, x, labels=labels, seed=0)
    assert report.verified
    assert report.values == 256 * math.prod(model.image_shape)
    assert report.near < 20


@pytest.mark.parametrize("name", MODELS.names())
def test_every_architecture_samples_over_fronts(name, recwarn):
    builder = MODELS.get(name)
    model = builder(**getattr(builder, "check_with", {}))
    labels = LABELS[:2] if model.num_classes else None
    assert verify(model, model.sample(2, labels, seed=5), labels=labels, seed=5).verified
    assert not recwarn.list


def test_verification_fails_on_a_single_wrong_pixel():
    model = small()
    x = model.sample(16, seed=0)
    assert verify(model, x, seed=0).verified
    x[3, 0, 4, 4] = 1 - x[3, 0, 4, 4]
    report = verify(model, x, seed=0)
    assert not report.verified
    assert report.mismatches >= 1
    assert not verify(model, model.sample(16, seed=0), seed=1).verified


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_same_images_whatever_the_batch(batch_size):
    model = small(num_classes=10)
    labels = LABELS[:20]
    assert torch.equal(model.sample(20, labels, seed=4, batch_size=batch_size), model.sample(20, labels, seed=4))


def test_noise_is_fixed_for_ever():
    # From NumPy's Philox4x64-10; published samples depend on it.
    expected = [0.4821286018761155, 0.7241355726248441, 0.05025403948627161]
    assert noise(7, 3, 1, (1, 1, 3)).flatten().tolist() == pytest.approx(expected, abs=0)
    assert noise(0, 0, 4, (1, 8, 8)).dtype == torch.float64
    with pytest.raises(ValueError, match="seed is -1"):
        noise(-1, 0, 1, (1, 1, 1))


def test_samples_have_the_models_distribution():
    torch.manual_seed(0)
    model = zoo.create("pixelcnn", channels=4, layers=1, image_shape=(1, 2, 2)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    x = model.sample(20_000, seed=0, batch_size=5_000)
    codes = (x.flatten(1) * torch.tensor([8, 4, 2, 1])).sum(1).long()
    grid = torch.tensor([[(n >> 3) & 1, (n >> 2) & 1, (n >> 1) & 1, n & 1] for n in range(16)]).double()
    expected = model.log_prob(grid.view(16, 1, 2, 2)).exp()
    frequency = torch.bincount(codes, minlength=16) / 20_000
    assert ((frequency - expected).abs() < 5 * (expected / 20_000).sqrt() + 1e-4).all()


class Masked(nn.Conv2d):
    """A textbook layer, causal but without taps."""

    def forward(self, x):
        mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
        return nn.functional.conv2d(x, self.weight * mask, self.bias, padding=1)


def test_a_model_that_cannot_run_over_fronts_is_sampled_naively_with_a_warning():
    model = small()
    model.net = nn.Sequential(Masked(1, 1, 3))
    model.forward = lambda x, context=None: model.net(x)
    with pytest.warns(UserWarning, match=r"Masked.*declare taps"):
        x = model.sample(3, seed=0)
    assert torch.equal(x, model.sample(3, seed=0, sampler="naive"))


def test_sampling_leaves_the_mode_as_it_was():
    model = small().train()
    model.sample(1)
    assert model.training


def test_no_images_and_a_wrong_number():
    assert small().sample(0).shape == (0, 1, 8, 8)
    with pytest.raises(ValueError, match="asked for -1"):
        small().sample(-1)
    with pytest.raises(ValueError, match="sampler is 'slow'"):
        small().sample(1, sampler="slow")
