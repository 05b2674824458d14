"""Exact sampling: the same images pixel by pixel (naive) and front by front (fast), from the same noise.

The noise is one uniform number per (seed, image, channel, row, column), drawn up front and used through the inverse
CDF. So the images do not depend on the sampler, nor on how they are split into batches.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from zoo.causal import CausalityError, Context, Schedule, over_fronts, schedule
from zoo.errors import RequestError


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


def share_labels(labels: Sequence[int], images: int) -> list[int]:
    """Share so many images among labels, in order and equally.

    Example:
        >>> share_labels([3, 7], 4)
        [3, 3, 7, 7]
    """
    return [labels[index * len(labels) // images] for index in range(images)]


@torch.no_grad()
def sample(
    model: nn.Module,
    images: int,
    *,
    labels: Tensor | None = None,
    seed: int = 0,
    sampler: Literal["fast", "naive"] = "fast",
    batch_size: int = 256,
) -> Tensor:
    """Draw exact samples, (images, C, H, W) on the likelihood's grid in [0, 1].

    Args:
        model: has ``image_shape``, ``likelihood`` and a forward that takes (x, context).
        images: how many.
        labels: (images,) classes, for a conditional model.
        seed: fixes the noise of every image, position and channel.
        sampler: "fast" computes front by front; "naive", the reference, one full forward pass per pixel. A model that
            cannot run over fronts is sampled naively, with a warning that says why.
        batch_size: images computed at a time; it does not change them.
    """
    parameter = next(model.parameters())
    if images == 0:
        return torch.zeros(0, *model.image_shape, dtype=parameter.dtype, device=parameter.device)
    plan = None
    with _evaluating(model):
        if sampler not in ("fast", "naive"):
            raise RequestError(f'sampler is {sampler!r}; it must be "fast" or "naive"')
        if sampler == "fast":
            try:
                plan = schedule(model, model.image_shape[0], labels=None if labels is None else labels[:1])
            except CausalityError as error:
                warnings.warn(f"sampling pixel by pixel, which is slow: {error}", stacklevel=2)
        batches = []
        for first in range(0, images, batch_size):
            uniform = noise(seed, first, min(batch_size, images - first), model.image_shape).to(parameter.device)
            context = Context(labels=None if labels is None else labels[first : first + batch_size])
            x = torch.zeros_like(uniform, dtype=parameter.dtype)
            fill = _naive(model, x, uniform, context) if plan is None else _fast(model, x, uniform, context, plan)
            batches.append(fill)
    return torch.cat(batches)


def _naive(model: nn.Module, x: Tensor, uniform: Tensor, context: Context) -> Tensor:
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            at = (slice(None), slice(None), slice(row, row + 1), slice(column, column + 1))
            x[at] = model.likelihood.quantile(model(x, context)[at], uniform[at])[0].to(x.dtype)
    return x


def _fast(model: nn.Module, x: Tensor, uniform: Tensor, context: Context, plan: Schedule) -> Tensor:
    for here, front in over_fronts(plan, *x.shape[2:], context):
        logits = model(front.take(x, plan.input_lag), here)
        front.put(x, model.likelihood.quantile(logits, front.take(uniform, plan.lag))[0].to(x.dtype), plan.lag)
    return x


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
    model: nn.Module, x: Tensor, *, labels: Tensor | None = None, seed: int = 0, batch_size: int = 256
) -> Verification:
    """Check samples against the naive sampler at the price of one forward pass.

    One parallel pass over the samples, with their noise, must give back every draw; by induction over the raster order
    that is equality with the naive sampler. Floating-point results change in their last bits with batch and shape, so
    a draw counts only if its uniform number is further than 1e-5 (float32) or 1e-12 (float64) from a step of the CDF.
    """
    parameter = next(model.parameters())
    tolerance = 1e-12 if parameter.dtype == torch.float64 else 1e-5
    mismatches = near = 0
    with _evaluating(model):
        for first in range(0, len(x), batch_size):
            given = x[first : first + batch_size].to(parameter)
            context = Context(labels=None if labels is None else labels[first : first + batch_size])
            uniform = noise(seed, first, len(given), model.image_shape).to(parameter.device)
            again, margin = model.likelihood.quantile(model(given, context), uniform)
            undecided = margin <= tolerance
            near += int(undecided.sum())
            mismatches += int(((again.to(given.dtype) != given) & ~undecided).sum())
    return Verification(x.numel(), mismatches, near)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and convolutions in full float32: TF32 would differ between a whole image and a front."""
    training, convolutions = model.training, torch.backends.cudnn.conv
    precision = convolutions.fp32_precision
    model.eval()
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = precision
        model.train(training)
