"""What every model of the zoo is: logits for each pixel from the pixels before it, and a likelihood."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from zoo import sampling
from zoo.causal import Context
from zoo.errors import RequestError


class PixelModel(nn.Module):
    r"""An autoregressive image model.

    .. math:: p(x \mid y) = \prod_i p(x_i \mid x_{<i}, y)

    A subclass implements ``forward(x, context) -> logits``, of whole images (B, C, H, W) and, through its layers, of
    fronts; ``log_prob`` and ``sample`` are thin functions over it.

    Args:
        image_shape: (C, H, W).
        likelihood: of the values of a pixel, given the logits.
        num_classes: of a conditional model, or None.
    """

    def __init__(
        self, image_shape: Sequence[int], likelihood: sampling.Likelihood, num_classes: int | None = None
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        self.likelihood = likelihood
        self.num_classes = num_classes

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The logits (B, likelihood.output_channels(C), H, W) of images (B, C, H, W) in [0, 1]."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, labels: Tensor | Sequence[int] | None = None) -> Tensor:
        """log p(x), or log p(x | labels): (B,) nats, for images (B, C, H, W) on the likelihood's grid.

        Raises:
            RequestError: the shape, a value off the grid, or the labels.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape:
            raise RequestError(f"images have shape {tuple(x.shape)}; this model takes (B, {str(self.image_shape)[1:]}")
        self._check_grid(x)
        x = x.to(next(self.parameters()))
        return self.likelihood.log_prob(self(x, Context(labels=self.check_labels(labels, len(x)))), x)

    def sample(
        self,
        images: int,
        labels: Tensor | Sequence[int] | int | None = None,
        *,
        seed: int = 0,
        sampler: Literal["fast", "naive"] = "fast",
        temperature: float = 1.0,
        given: Tensor | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        memory: int | None = None,
        progress: sampling.Progress | None = None,
    ) -> Tensor:
        """Draw exact samples (images, C, H, W), or complete ``given`` ones; see :func:`zoo.sampling.sample`.

        Raises:
            RequestError: a number, the labels or the given pixels.

        Example:
            >>> import torch, zoo
            >>> model = zoo.create("pixelcnn", channels=4, layers=1, image_shape=(1, 4, 4))
            >>> upper = torch.full((1, 4, 4), torch.nan)  # NaN: to be sampled
            >>> upper[:, :2] = 1.0
            >>> bool((model.sample(3, given=upper)[:, :, :2] == 1).all())
            True
        """
        if images < 0:
            raise RequestError(f"asked for {images} images; ask for 0 or more")
        if given is not None:
            if tuple(given.shape) not in (self.image_shape, (1, *self.image_shape), (images, *self.image_shape)):
                raise RequestError(
                    f"given pixels have shape {tuple(given.shape)}; pass {(images, *self.image_shape)}, "
                    f"or {self.image_shape} for all, with NaN where to sample"
                )
            self._check_grid(given.nan_to_num(0.0))
            given = given.to(next(self.parameters()).device)
        return sampling.sample(
            self,
            images,
            labels=self.check_labels(labels, images),
            seed=seed,
            sampler=sampler,
            temperature=temperature,
            given=given,
            dtype=dtype,
            batch_size=batch_size,
            memory=memory,
            progress=progress,
        )

    def _check_grid(self, x: Tensor) -> None:
        steps = x.detach().double() * (self.likelihood.levels - 1)
        # Asked so that a NaN, which is not comparable, is refused too.
        if not ((x >= 0) & (x <= 1) & ((steps - steps.round()).abs() < 1e-4)).all():
            raise RequestError(
                f"images hold values off the grid of {self.likelihood.levels} levels in [0, 1]; "
                "binarize or quantize them first: zoo.data has the protocols"
            )

    def check_labels(self, labels: Tensor | Sequence[int] | int | None, images: int) -> Tensor | None:
        """The labels as (images,) int64 on the model's device, one for all if a single one was given.

        Raises:
            RequestError: missing, superfluous, too many or too few, or outside the classes.
        """
        if self.num_classes is None:
            if labels is not None:
                raise RequestError("this model is unconditional and takes no labels; leave them out")
            return None
        classes = f"0 to {self.num_classes - 1}"
        if labels is None:
            raise RequestError(f"this model is conditional; pass labels, {images} of {classes}")
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise RequestError(f"labels are {labels!r}, {error}; they must be integers, {classes}") from None
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise RequestError(f"labels are {labels.dtype}; they must be integers, {classes}")
        outside = labels[(labels < 0) | (labels >= self.num_classes)]
        if len(outside.flatten()):
            raise RequestError(f"label {int(outside.flatten()[0])} is none of the model's classes, {classes}")
        if labels.ndim == 0:
            labels = labels.expand(images)
        if labels.shape != (images,):
            raise RequestError(f"labels have shape {tuple(labels.shape)} for {images} images; pass one each")
        return labels.to(next(self.parameters()).device, torch.int64)
