import copy
import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

import zoo
from zoo import rowwise, wavefront
from zoo.causal import Context, Sequential, over_fronts
from zoo.layers import ConditionalBias, MaskedConv2d, ResidualBlock
from zoo.likelihoods.bernoulli import Bernoulli
from zoo.models import PixelModel
from zoo.registry import MODELS
from zoo.sampling import noise, sample, verify
from zoo.wavefront import schedule

LABELS = torch.arange(256) % 10


def small(**arguments):
    torch.manual_seed(1)
    return zoo.create("pixelcnn", channels=8, layers=3, image_shape=(1, 8, 8), **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 3, 9), (1, 6, 2), (3, 5, 5)])
@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
def test_fast_is_naive_pixel_for_pixel(name, dtype, shape):
    torch.manual_seed(2)
    model = zoo.create(name, channels=6, layers=3, image_shape=shape, num_classes=10).to(dtype)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    context = Context(labels=LABELS[:40])
    fast = sample(model, 40, context=context, seed=3)
    assert 0.05 < fast.mean() < 0.95
    assert torch.equal(fast, sample(model, 40, context=context, seed=3, sampler="naive"))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 5)])
@pytest.mark.parametrize("way", [wavefront, rowwise])
def test_along_a_slope_or_row_by_row(shape, way):
    torch.manual_seed(2)
    model = zoo.create("gated-pixelcnn", channels=6, layers=3, image_shape=shape).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    lag = 1 if shape[0] == 1 else 0
    plan = way.schedule(model, shape[0], lag=lag)
    x = sample(model, 30, seed=1)
    y, seen = torch.zeros_like(x), torch.zeros_like(x)
    # The same draws, by way of either: what is drawn is looked up, so that only the logits are at stake.
    with torch.no_grad():
        for here, front in over_fronts(plan, *shape[1:], Context()):
            at = front.positions
            for channel in range(shape[0]):
                part = slice(channel, channel + 1)
                at.put(y[:, part], model(at.take(seen, lag), here)[:, part], 0)
                at.put(seen[:, part], at.take(x[:, part], 0), 0)
                front.again()
            if lag == 0:
                model(at.take(seen, 0), here)
        torch.testing.assert_close(y, model(x))


@pytest.mark.parametrize("name", ["pixelcnn", "gated-pixelcnn"])
@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 5, 4)])
def test_every_condition_and_level(name, shape):
    torch.manual_seed(4)
    conditions = {"num_classes": 4, "vector_size": 3, "map_channels": 2, "condition_dropout": 0.1}
    model = zoo.create(name, channels=6, layers=2, image_shape=shape, **conditions, likelihood="categorical").double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    given = {"labels": LABELS[:12] % 4, "vectors": torch.randn(12, 3), "maps": torch.randn(12, 2, *shape[1:])}
    x = model.sample(12, **given, seed=5, batch_size=5)
    assert len(x.unique()) > 50
    assert torch.equal(x, model.sample(12, **given, seed=5, sampler="naive"))
    assert verify(model, x, context=model.condition(12, **given), seed=5).verified
    for name in given:
        other = given | {name: given[name].flip(0)}
        assert not torch.equal(x, model.sample(12, **other, seed=5))
        assert not verify(model, x, context=model.condition(12, **other), seed=5).verified
    exaggerated = model.sample(12, **given, seed=5, guidance=2.5, batch_size=5)
    assert not torch.equal(x, exaggerated)
    assert torch.equal(exaggerated, model.sample(12, **given, seed=5, guidance=2.5, sampler="naive"))
    assert verify(model, exaggerated, context=model.condition(12, **given), seed=5, guidance=2.5).verified
    # Guidance 0 is no condition at all.
    assert torch.equal(model.sample(12, **given, seed=5, guidance=0), model.sample(12, seed=5))


def test_guidance_needs_a_model_that_knows_what_no_condition_is():
    with pytest.raises(ValueError, match=r"guidance is 2.0.*condition_dropout"):
        small(num_classes=10).sample(1, 3, guidance=2.0)


def test_guidance_moves_the_logits_away_from_those_without_a_condition():
    model = small(num_classes=10, condition_dropout=0.5).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    x = model.sample(64, 3, seed=0, guidance=3.0)
    with torch.no_grad():
        plain, conditional = model(x, model.condition(64)), model(x, model.condition(64, 3))
    expected, _ = model.likelihood.quantile(plain + 3 * (conditional - plain), noise(0, 0, 64, (1, 8, 8)))
    assert torch.equal(x, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", zoo.list_models("*mnist*"))
def test_256_samples_of_every_trained_model_are_verified(name, dtype):
    model = zoo.load(name).to(dtype)
    labels = LABELS if model.num_classes else None
    x = model.sample(256, labels, seed=0)
    report = verify(model, x, context=Context(labels=labels), seed=0)
    assert report.verified
    assert report.values == 256 * math.prod(model.image_shape)
    # Of each step from one level to the next.
    assert report.near < 20 * (model.likelihood.levels - 1)


@pytest.mark.parametrize("name", MODELS.names())
def test_every_architecture_samples_over_fronts(name, recwarn):
    builder = MODELS.get(name)
    model = builder(**getattr(builder, "check_with", {}))
    labels = LABELS[:2] if model.num_classes else None
    assert verify(model, model.sample(2, labels, seed=5), context=Context(labels=labels), seed=5).verified
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("images", "batch_size"), [(1, None), (7, 3), (64, None), (20, 7), (6, 1)])
@pytest.mark.parametrize("name", zoo.list_models("*mnist*"))
def test_every_batch_and_chunk_size_is_verified(name, images, batch_size, dtype):
    model = zoo.load(name).to(dtype)
    labels = LABELS[:images] if model.num_classes else None
    x = model.sample(images, labels, seed=6, batch_size=batch_size)
    assert verify(model, x, context=Context(labels=labels), seed=6).verified


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_same_images_whatever_the_batch(batch_size):
    model = small(num_classes=10)
    labels = LABELS[:20]
    assert torch.equal(model.sample(20, labels, seed=4, batch_size=batch_size), model.sample(20, labels, seed=4))


def test_memory_bounds_the_chunks():
    model = small()
    image = schedule(model, 1).bytes_per_image(model.image_shape, 4)
    told = []
    x = model.sample(10, seed=4, memory=4 * image, progress=lambda done, total: told.append((done, total)))
    assert torch.equal(x, model.sample(10, seed=4))
    # The first front has one pixel of each image of the chunk: 10 images in equal chunks of no more than 4.
    assert told[0] == (4, 640)
    assert told[-1] == (640, 640)
    model.sample(10, seed=4, memory=1, progress=lambda done, total: told.append((done, total)))
    assert (1, 640) in told


def test_fronts_hold_no_more_than_the_schedule_says():
    model = small()
    plan = schedule(model, 1)
    x = torch.zeros(3, 1, 8, 8)
    with torch.no_grad():
        for context, front in over_fronts(plan, 8, 8, Context()):
            model(front.positions.take(x, 1), context)
            held = sum(band.memory.nbytes for band in front.positions._bands if band is not None)
    assert 0 < held <= 3 * plan.bytes_per_image(model.image_shape, 4)


@pytest.mark.parametrize("sampler", ["fast", "naive"])
def test_progress_grows_to_all_pixels(sampler):
    told = []
    small().sample(5, sampler=sampler, batch_size=2, progress=lambda done, total: told.append((done, total)))
    done = [pixels for pixels, _ in told]
    assert {total for _, total in told} == {5 * 64}
    assert done == sorted(done)
    assert done[-1] == 5 * 64


def test_temperature_divides_the_logits():
    model = small()
    x = model.sample(16, seed=0, temperature=0.5)
    assert verify(model, x, seed=0, temperature=0.5).verified
    assert not verify(model, x, seed=0).verified
    assert torch.equal(x, model.sample(16, seed=0, temperature=0.5, sampler="naive"))
    # Near zero every pixel takes its likeliest value, whatever the noise.
    assert torch.equal(model.sample(4, seed=0, temperature=1e-9), model.sample(4, seed=1, temperature=1e-9))
    with pytest.raises(ValueError, match="temperature is 0"):
        model.sample(1, temperature=0)


def test_given_pixels_are_kept_and_the_rest_drawn():
    torch.manual_seed(3)
    model = zoo.create("pixelcnn", channels=8, layers=3, image_shape=(2, 8, 8), num_classes=10).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    labels = LABELS[:30]
    given = torch.where(torch.rand(30, 2, 8, 8) < 0.3, torch.rand(30, 2, 8, 8).round(), torch.nan)
    known = ~given.isnan()
    x = model.sample(30, labels, seed=2, given=given, batch_size=7)
    assert torch.equal(x[known].float(), given[known])
    assert 0.05 < x[~known].mean() < 0.95
    assert torch.equal(x, model.sample(30, labels, seed=2, given=given, sampler="naive"))
    assert verify(model, x, context=Context(labels=labels), seed=2, given=given).verified
    assert not verify(model, 1 - x, context=Context(labels=labels), seed=2, given=given).verified
    # What is given changes what follows it, and nothing before it.
    below = torch.full((2, 8, 8), torch.nan)
    below[:, 4:] = 1
    plain = model.sample(30, labels, seed=2)
    assert torch.equal(model.sample(30, labels, seed=2, given=below)[:, :, :4], plain[:, :, :4])
    above = below.flip(1)
    assert not torch.equal(model.sample(30, labels, seed=2, given=above)[:, :, 4:], plain[:, :, 4:])


def test_wrong_given_pixels():
    model = small()
    with pytest.raises(ValueError, match=r"given pixels have shape \(2, 1, 8, 8\); pass \(3, 1, 8, 8\)"):
        model.sample(3, given=torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match="off the grid"):
        model.sample(3, given=torch.full((1, 8, 8), 0.5))


def test_the_dtype_to_compute_in():
    model = small()
    half = model.sample(40, seed=1, dtype=torch.bfloat16)
    assert half.dtype == torch.float32
    assert set(half.unique().tolist()) == {0.0, 1.0}
    assert next(model.parameters()).dtype == torch.float32
    assert (half != model.sample(40, seed=1)).float().mean() < 0.2
    double = model.sample(40, seed=1, dtype=torch.float64)
    assert verify(model.double(), double, seed=1).verified
    with pytest.raises(ValueError, match=r"dtype is torch.int32; it must be floating"):
        model.sample(1, dtype=torch.int32)


def test_the_schedule_is_found_once_and_again_when_the_model_is_built_otherwise():
    model = small()
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    model.sample(1)
    first, fronts = len(passes), schedule(model, 1).fronts(8, 8)
    passes.clear()
    model.sample(1)
    assert len(passes) == fronts < first
    model.net[1] = ResidualBlock(8, dilation=5)
    assert verify(model, model.sample(4), seed=0).verified
    assert verify(copy.deepcopy(model), copy.deepcopy(model).sample(4), seed=0).verified


class Guided(PixelModel):
    """Runs its layers twice, with other labels: what is prepared once must know for which."""

    def __init__(self):
        super().__init__((1, 6, 6), Bernoulli(), 10)
        self.net = Sequential(MaskedConv2d("A", 1, 1, 5), ConditionalBias(10, 1))
        nn.init.normal_(self.net[1].weight, std=2)
        self.far = False

    def forward(self, x, context=None):
        other = replace(context, labels=torch.zeros_like(context.labels))
        y = 2 * self.net(x, context) - self.net(x, other)
        return self.net(y.tanh(), context) if self.far else y


def test_what_is_prepared_once_depends_on_the_labels():
    torch.manual_seed(0)
    model = Guided()
    labels = LABELS[:30]
    assert torch.equal(model.sample(30, labels), model.sample(30, labels, sampler="naive"))
    # Another path of the same layers, another schedule.
    model.far = True
    assert verify(model, model.sample(30, labels), context=Context(labels=labels)).verified


def test_a_sampled_model_is_freed_at_once():
    model = small()
    model.sample(1)
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_samples_can_be_trained_on():
    model = small()
    x = model.sample(2)
    model.log_prob(x).sum().backward()
    assert not x.is_inference()


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
