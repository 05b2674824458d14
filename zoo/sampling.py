"""Exact sampling: the same images pixel by pixel (naive) and front by front (fast), from the same noise.

The noise is one uniform number per (seed, image, channel, row, column), drawn up front and used through the inverse
CDF. So the images do not depend on the sampler, nor on how they are split into batches.

The channels of a pixel are drawn in their order, each given those before it. The outputs of a model for C channels are
C equal groups in that order, and group c sees the channels before c of its own pixel, if the model looks at them.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from zoo import rowwise, wavefront
from zoo.causal import CausalityError, Context, Schedule, nothing, over_fronts
from zoo.errors import RequestError

MEMORY_ON_CPU, MEMORY_ELSEWHERE = 2**26, 2**30

NAIVE_BATCH = 64

KEPT = "_schedule"
"""The attribute in which a model keeps its schedule."""

SETTINGS = (int, float, str, tuple, FunctionType, MethodType)
"""Attributes that may decide which way a forward takes."""

Progress = Callable[[int, int], None]


class Likelihood(Protocol):
    """What a likelihood must offer; see :class:`zoo.likelihoods.bernoulli.Bernoulli`."""

    levels: int

    def output_channels(self, channels: int) -> int: ...

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor: ...

    def quantile(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]: ...


def noise(seed: int, first: int, images: int, shape: tuple[int, int, int]) -> Tensor:
    """The uniform numbers in [0, 1) of images ``first``, ``first + 1``, ...: (images, C, H, W), float64.

    Image n takes the words of the counter-based Philox4x64 generator with key (seed, n), in raster order; the upper 53
    bits of a word make a number. (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011.)

    Example:
        >>> bool((noise(0, 5, 1, (1, 2, 2)) == noise(0, 0, 9, (1, 2, 2))[5]).all())
        True
    """
    if not 0 <= seed < 2**64:
        raise RequestError(f"seed is {seed}; it must be in [0, 2**64)")
    size = int(np.prod(shape))
    words = [np.random.Philox(key=np.array([seed, first + n], np.uint64)).random_raw(size) for n in range(images)]
    uniform = (np.array(words, np.uint64).reshape(images, *shape) >> np.uint64(11)) * 2.0**-53
    return torch.from_numpy(uniform)


def share(conditions: Sequence[Any], images: int) -> list[Any]:
    """Share so many images among labels or other conditions, in order and equally.

    Example:
        >>> share([3, 7], 4)
        [3, 3, 7, 7]
    """
    return [conditions[index * len(conditions) // images] for index in range(images)]


def sample(
    model: nn.Module,
    images: int,
    *,
    context: Context | None = None,
    seed: int = 0,
    sampler: Literal["fast", "naive"] = "fast",
    temperature: float = 1.0,
    guidance: float = 1.0,
    given: Tensor | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Draw exact samples, (images, C, H, W) on the likelihood's grid in [0, 1].

    Args:
        model: has ``image_shape``, ``likelihood`` and a forward that takes (x, context).
        images: how many.
        context: the condition of the images, for a conditional model.
        seed: fixes the noise of every image, position and channel.
        sampler: "fast" computes front by front; "naive", the reference, one full forward pass per value. A model that
            cannot run over fronts is sampled naively, with a warning that says why.
        temperature: divides the logits; below 1 the likelier values become likelier still.
        guidance: above 1, exaggerate the condition: logits l(nothing) + guidance * (l(condition) - l(nothing)), for a
            model that was trained without its condition, too. (Ho and Salimans, Classifier-Free Diffusion Guidance,
            2022; here on logits.) Exact draws of that distribution, which is another than the model's.
        given: (images, C, H, W), or (C, H, W) for all: pixels to keep, NaN where to sample. Each sampled pixel
            sees what comes before it in raster order, given or sampled.
        dtype: to compute in, by default the model's own. Bits may differ between dtypes: bfloat16 is fast and a valid
            draw, but of a slightly different model, so it is not what :func:`verify` expects in float32.
        batch_size: images computed at a time; it does not change them. By default as many as ``memory`` allows.
        memory: bound in bytes on what the fast sampler holds at a time, beside model and samples. By default 64 MiB
            on a CPU, of which its last cache holds what is in use at a time, and 1 GiB on other devices.
        progress: called after each front with the pixels that are done and their total.
    """
    if sampler not in ("fast", "naive"):
        raise RequestError(f'sampler is {sampler!r}; it must be "fast" or "naive"')
    if not 0 < temperature < math.inf:
        raise RequestError(f"temperature is {temperature}; it must be greater than 0 and finite")
    if not math.isfinite(guidance):
        raise RequestError(f"guidance is {guidance}; it must be finite: 1 for none, above 1 for more")
    if batch_size is not None and batch_size < 1:
        raise RequestError(f"batch_size is {batch_size}; it must be at least 1")
    if dtype is not None and not dtype.is_floating_point:
        raise RequestError(f"dtype is {dtype}; it must be floating, such as torch.bfloat16")
    context = _as(dtype or next(model.parameters()).dtype, context)
    with evaluating(model):
        plan = _plan(model, context) if sampler == "fast" and images else None
    parameter = next(model.parameters())
    if dtype not in (None, parameter.dtype):
        # Together, so that the schedule is of the copy's layers.
        model, plan = copy.deepcopy((model, plan))
        model = model.to(dtype)
    # Half precision does not hold the grid of 256 levels.
    grid = torch.promote_types(dtype or parameter.dtype, torch.float32)
    samples = torch.zeros(images, *model.image_shape, dtype=grid, device=parameter.device)
    with evaluating(model):
        guided = guidance != 1
        size = batch_size or _batch_size(model, plan, images, memory, context, 1 + guided)
        walk = _walk_naive if plan is None else partial(_walk_fast, plan=plan)
        pixels = samples[:, 0].numel()
        for first in range(0, images, size):
            part = slice(first, first + size)
            before = samples[:first, 0].numel()
            walk(
                samples[part],
                _Drawing(
                    model,
                    dtype or parameter.dtype,
                    _guided(context.each(lambda whole, part=part: whole[part]), guidance),
                    guidance,
                    noise(seed, first, len(samples[part]), model.image_shape).to(parameter.device),
                    None if given is None else given.expand_as(samples)[part],
                    temperature,
                    _quiet if progress is None else lambda done, before=before: progress(before + done, pixels),
                ),
            )
    return samples


def _quiet(done: int) -> None:
    pass


def _as(dtype: torch.dtype, context: Context | None) -> Context:
    """The condition, its floats of this type."""
    return (context or Context()).each(lambda part: part.to(dtype) if part.is_floating_point() else part)


def _guided(context: Context, guidance: float) -> Context:
    """The condition, and behind it as many images without any, if there is guidance."""
    return context if guidance == 1 else context.each(lambda part: torch.cat([part, nothing(part)]))


def _logits(model: nn.Module, x: Tensor, context: Context, guidance: float, temperature: float) -> Tensor:
    """The logits to draw from, of images (B, C, H, W) and the context that :func:`_guided` made for them."""
    if guidance == 1:
        return model(x, context) / temperature
    conditional, unconditional = model(torch.cat([x, x]), context).chunk(2)
    return torch.lerp(unconditional, conditional, guidance) / temperature


@dataclass(frozen=True)
class _Drawing:
    """One batch to be drawn: its model, condition, noise (B, C, H, W), kept pixels, and whom to tell how far it is."""

    model: nn.Module
    dtype: torch.dtype
    context: Context
    guidance: float
    uniform: Tensor
    given: Tensor | None
    temperature: float
    progress: Callable[[int], None]

    def logits(self, x: Tensor, context: Context) -> Tensor:
        """Of pixels that are drawn already, on a grid that may be finer than the model's precision."""
        return _logits(self.model, x.to(self.dtype), context, self.guidance, self.temperature)

    def values(self, logits: Tensor, uniform: Tensor, given: Tensor | None) -> Tensor:
        """The given values, and elsewhere what the noise draws from these logits."""
        drawn = self.model.likelihood.quantile(logits, uniform)[0]
        return drawn if given is None else torch.where(given.isnan(), drawn, given.to(drawn))

    def channel(self, index: int, logits: Tensor, uniform: Tensor, given: Tensor | None) -> Tensor:
        """The values of one channel, (B, 1, ...)."""
        part = slice(index, index + 1)
        own = logits.chunk(uniform.shape[1], 1)[index]
        return self.values(own, uniform[:, part], None if given is None else given[:, part])


@torch.no_grad()
def _walk_naive(samples: Tensor, drawing: _Drawing) -> None:
    batch, channels, height, width = samples.shape
    x = samples.clone(memory_format=torch.channels_last)
    for row in range(height):
        for column in range(width):
            at = (slice(None), slice(None), slice(row, row + 1), slice(column, column + 1))
            given = None if drawing.given is None else drawing.given[at]
            for channel in range(channels):
                logits = drawing.logits(x, drawing.context)[at]
                x[at][:, channel : channel + 1] = drawing.channel(channel, logits, drawing.uniform[at], given)
            drawing.progress(batch * (row * width + column + 1))
    samples.copy_(x)


@torch.inference_mode()
def _walk_fast(samples: Tensor, drawing: _Drawing, plan: Schedule) -> None:
    x, uniform = _rows_outermost(samples), _rows_outermost(drawing.uniform)
    given = None if drawing.given is None else _rows_outermost(drawing.given)
    done = 0
    maps = drawing.context.maps
    context = replace(drawing.context, maps=None if maps is None else _rows_outermost(maps))
    for here, front in over_fronts(plan, *x.shape[2:], context):
        at = front.positions
        known = None if given is None else at.take(given, plan.lag)
        drawn = at.take(uniform, plan.lag)
        if plan.input_lag:
            logits = drawing.logits(at.take(x, plan.input_lag), here)
            at.put(x, drawing.values(logits, drawn, known), plan.lag)
        else:
            # The model looks at the channels of a pixel that are known: one pass for each that is not.
            for channel in range(x.shape[1]):
                logits = drawing.logits(at.take(x, 0), here)
                at.put(x[:, channel : channel + 1], drawing.channel(channel, logits, drawn, known), plan.lag)
                front.again()
            # And one that remembers the last.
            drawing.logits(at.take(x, 0), here)
        done += len(x) * at.count(plan.lag)
        drawing.progress(done)
    samples.copy_(x)


def _rows_outermost(images: Tensor) -> Tensor:
    """A copy of images (B, C, H, W), in memory (H, W, B, C): as fronts are, so that a front is a slice of it."""
    return images.permute(2, 3, 0, 1).clone(memory_format=torch.contiguous_format).permute(2, 3, 0, 1)


def schedule_of(module: nn.Module, channels: int, context: Context | None = None) -> Schedule:
    """The way over images of so many channels for a model, whose output sees pixels (and channels) before its own.

    Along a slope or row by row, whichever takes fewer fronts; docs/log.md has both measured.

    Raises:
        CausalityError: it has none.
    """
    height, width = getattr(module, "image_shape", (channels, 28, 28))[1:]
    # That it sees no later channels of its own pixel cannot be told from lags; zoo check measures it.
    for lag in (1, 0)[: min(channels, 2)]:
        found: list[Schedule] = []
        for way in (rowwise, wavefront):
            try:
                found.append(way.schedule(module, channels, context=context, lag=lag))
            except CausalityError as error:
                reason = error
        if found:
            return min(found, key=lambda schedule: schedule.fronts(height, width))
    raise reason


def _plan(model: nn.Module, context: Context) -> Schedule | None:
    """The model's schedule, found once and kept with the model for as long as it is built the same; None if none is."""
    # Other layers, taps or settings may make another schedule, and so may other kinds of condition.
    built: list[Any] = [part is None for part in (context.labels, context.vectors, context.maps)]
    built += [
        (
            id(part),
            *((int(di), int(dj)) for di, dj in getattr(part, "taps", ())),
            *((name, value) for name, value in vars(part).items() if name != KEPT and isinstance(value, SETTINGS)),
        )
        for part in model.modules()
    ]
    known, plan = vars(model).get(KEPT, (None, None))
    if known != built:
        try:
            plan = schedule_of(model, model.image_shape[0], context)
        except CausalityError as error:
            warnings.warn(f"sampling pixel by pixel, which is slow: {error}", stacklevel=3)
            return None
        vars(model)[KEPT] = built, plan
    return plan


def _batch_size(
    model: nn.Module, plan: Schedule | None, images: int, memory: int | None, context: Context, copies: int
) -> int:
    """As many images as the bound allows, at least one, and equally many each time."""
    if plan is None:
        return NAIVE_BATCH
    parameter = next(model.parameters())
    outputs = model.likelihood.output_channels(model.image_shape[0])
    if memory is None:
        memory = MEMORY_ON_CPU if parameter.device.type == "cpu" else MEMORY_ELSEWHERE
    image = plan.bytes_per_image(model.image_shape, parameter.element_size(), outputs)
    if context.maps is not None:
        image += context.maps[0].numel() * context.maps.element_size()
    most = max(1, memory // copies // image)
    return math.ceil(images / math.ceil(images / most))


@dataclass(frozen=True)
class Verification:
    """The outcome of :func:`verify`.

    Args:
        values: how many draws were compared.
        mismatches: how many one parallel pass did not give back; 0 means equal to the naive sampler's.
        near: how many lay so near to a step of the CDF that rounding may decide them; they do not count.
    """

    values: int
    mismatches: int
    near: int

    @property
    def verified(self) -> bool:
        """Whether every draw came back."""
        return self.mismatches == 0


@torch.no_grad()
def verify(
    model: nn.Module,
    x: Tensor,
    *,
    context: Context | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    guidance: float = 1.0,
    given: Tensor | None = None,
    batch_size: int = 64,
) -> Verification:
    """Check samples against the naive sampler at the price of one forward pass.

    One parallel pass over the samples, with their noise, must give back every draw; by induction over the raster order
    that is equality with the naive sampler. Floating-point results change in their last bits with batch and shape, so
    a draw counts only if its uniform number is further than 1e-5 (float32) or 1e-12 (float64) from a step of the CDF.
    Given pixels must be as given.
    """
    parameter = next(model.parameters())
    # What amplifies logits amplifies their last bits.
    amplified = max(1.0, (abs(guidance) + abs(guidance - 1)) / temperature)
    tolerance = amplified * (1e-12 if parameter.dtype == torch.float64 else 1e-5)
    mismatches = near = 0
    with evaluating(model):
        for first in range(0, len(x), batch_size):
            part = slice(first, first + batch_size)
            seen = x[part].to(parameter, memory_format=torch.channels_last)
            condition = _guided(_as(parameter.dtype, context).each(lambda whole, part=part: whole[part]), guidance)
            uniform = noise(seed, first, len(seen), model.image_shape).to(parameter.device)
            again, margin = model.likelihood.quantile(_logits(model, seen, condition, guidance, temperature), uniform)
            undecided = margin <= tolerance
            if given is not None:
                known = given.expand_as(x)[part].to(seen)
                again = torch.where(known.isnan(), again.to(seen), known)
                undecided &= known.isnan()
            near += int(undecided.sum())
            mismatches += int(((again.to(seen.dtype) != seen) & ~undecided).sum())
    return Verification(x.numel(), mismatches, near)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and products in full float32: TF32 would differ between a whole image and a front."""
    training, products = model.training, (torch.backends.cudnn.conv, torch.backends.cuda.matmul)
    precisions = [product.fp32_precision for product in products]
    model.eval()
    for product in products:
        product.fp32_precision = "ieee"
    try:
        yield
    finally:
        for product, precision in zip(products, precisions, strict=True):
            product.fp32_precision = precision
        model.train(training)
