"""What every model of the zoo is: logits for each pixel from the pixels before it, and a likelihood."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo import sampling
from zoo.causal import Context, nothing
from zoo.errors import RequestError, first_line


class PixelModel(nn.Module):
    r"""An autoregressive image model.

    .. math:: p(x \mid y, h, s) = \prod_i p(x_i \mid x_{<i}, y, h, s)

    A subclass implements ``forward(x, context) -> logits``, of whole images (B, C, H, W) and, through its layers, of
    fronts; ``log_prob`` and ``sample`` are thin functions over it.

    Args:
        image_shape: (C, H, W).
        likelihood: of the values of a pixel, given the logits.
        num_classes: of the labels y, or None if it takes none.
        vector_size: D of the vectors h (B, D), or None if it takes none.
        map_channels: K of the maps s (B, K, H, W), or None if it takes none.
        condition_dropout: the share of training images whose condition is dropped, so that the model learns p(x), too:
            then conditions may be left out, and sampling can be guided.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        likelihood: sampling.Likelihood,
        num_classes: int | None = None,
        *,
        vector_size: int | None = None,
        map_channels: int | None = None,
        condition_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        self.likelihood = likelihood
        self.num_classes, self.vector_size, self.map_channels = num_classes, vector_size, map_channels
        self.condition_dropout = condition_dropout
        if condition_dropout and not self.conditional:
            raise ValueError(
                f"condition_dropout is {condition_dropout}, but there is no condition to drop; set num_classes, "
                "vector_size or map_channels, or leave it out"
            )

    @property
    def conditional(self) -> bool:
        """Whether it takes labels, vectors or maps."""
        return bool(self.takes)

    @property
    def takes(self) -> tuple[str, ...]:
        """What it is conditional on, of "labels", "vectors" and "maps", as ``log_prob`` and ``sample`` call them."""
        sizes = {"labels": self.num_classes, "vectors": self.vector_size, "maps": self.map_channels}
        return tuple(name for name, size in sizes.items() if size is not None)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The logits (B, likelihood.output_channels(C), H, W) of images (B, C, H, W) in [0, 1].

        They are C equal groups, one for each channel of the image; group c may see the channels before c of its pixel.
        """
        raise NotImplementedError

    def log_prob(
        self,
        x: Tensor,
        labels: Tensor | Sequence[int] | int | None = None,
        *,
        vectors: Tensor | Sequence[Any] | None = None,
        maps: Tensor | None = None,
    ) -> Tensor:
        """log p(x | labels, vectors, maps): (B,) nats, for images (B, C, H, W) on the likelihood's grid.

        Raises:
            RequestError: the shape, a value off the grid, or the condition.
        """
        if x.ndim != 4 or tuple(x.shape[1:]) != self.image_shape:
            raise RequestError(f"images have shape {tuple(x.shape)}; this model takes (B, {str(self.image_shape)[1:]}")
        self.check_grid(x)
        x = x.to(next(self.parameters()))
        return self.likelihood.log_prob(self(x, self.condition(len(x), labels, vectors=vectors, maps=maps)), x)

    def sample(
        self,
        images: int,
        labels: Tensor | Sequence[int] | int | None = None,
        *,
        vectors: Tensor | Sequence[Any] | None = None,
        maps: Tensor | None = None,
        seed: int = 0,
        sampler: Literal["fast", "naive"] = "fast",
        temperature: float = 1.0,
        guidance: float = 1.0,
        given: Tensor | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        memory: int | None = None,
        progress: sampling.Progress | None = None,
    ) -> Tensor:
        """Draw exact samples (images, C, H, W), or complete ``given`` ones; see :func:`zoo.sampling.sample`.

        Raises:
            RequestError: a number, the condition or the given pixels.

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
        if guidance != 1 and not self.condition_dropout:
            raise RequestError(
                f"guidance is {guidance}, but this model never saw an image without its condition; train one with "
                "condition_dropout, such as 0.1"
            )
        if given is not None:
            if tuple(given.shape) not in (self.image_shape, (1, *self.image_shape), (images, *self.image_shape)):
                raise RequestError(
                    f"given pixels have shape {tuple(given.shape)}; pass {(images, *self.image_shape)}, "
                    f"or {self.image_shape} for all, with NaN where to sample"
                )
            self.check_grid(given.nan_to_num(0.0))
            given = given.to(next(self.parameters()).device)
        return sampling.sample(
            self,
            images,
            context=self.condition(images, labels, vectors=vectors, maps=maps),
            seed=seed,
            sampler=sampler,
            temperature=temperature,
            guidance=guidance,
            given=given,
            dtype=dtype,
            batch_size=batch_size,
            memory=memory,
            progress=progress,
        )

    def check_grid(self, x: Tensor) -> None:
        steps = x.detach().double() * (self.likelihood.levels - 1)
        # Asked so that a NaN, which is not comparable, is refused too.
        if not ((x >= 0) & (x <= 1) & ((steps - steps.round()).abs() < 1e-4)).all():
            raise RequestError(
                f"images hold values off the grid of {self.likelihood.levels} levels in [0, 1]; "
                "binarize or quantize them first: zoo.data has the protocols"
            )

    def condition(
        self,
        images: int,
        labels: Tensor | Sequence[int] | int | None = None,
        *,
        vectors: Tensor | Sequence[Any] | None = None,
        maps: Tensor | None = None,
    ) -> Context:
        """The condition of so many images, checked, on the model's device; one label, vector or map may stand for all.

        A model with ``condition_dropout`` may be given none of what it takes: then it is p(x). Of a single image the
        label -1, a vector of zeros and a map of zeros say the same; training drops all parts together, so give all.

        Raises:
            RequestError: missing, superfluous, or not as many, of the type, of the shape or of the values it must be.
        """
        of_image = (self.map_channels, *self.image_shape[1:])
        parts = {
            "labels": (labels, self.num_classes, ()),
            "vectors": (vectors, self.vector_size, (self.vector_size,)),
            "maps": (maps, self.map_channels, of_image),
        }
        missing = all(given is None for given, _, _ in parts.values())
        parameter = next(self.parameters())
        checked = {}
        for name, (given, size, shape) in parts.items():
            if size is None:
                if given is not None:
                    raise RequestError(f"{name} are given, but this model {self._takes()}; leave them out")
                continue
            if given is None and not (missing and self.condition_dropout):
                raise RequestError(f"no {name} are given, but this model {self._takes()}; pass {name}=...")
            like = torch.empty(0, dtype=torch.int64 if name == "labels" else parameter.dtype, device=parameter.device)
            if given is None:
                checked[name] = nothing(like.new_empty(images, *shape))
            else:
                checked[name] = self._checked(name, given, images, shape).to(like)
        return Context(**checked)

    def _takes(self) -> str:
        """In words: what condition it takes."""
        taken = []
        if self.num_classes is not None:
            taken.append(f"labels, {self.num_classes} classes from 0 to {self.num_classes - 1}")
        if self.vector_size is not None:
            taken.append(f"vectors (B, {self.vector_size})")
        if self.map_channels is not None:
            taken.append(f"maps (B, {self.map_channels}, {self.image_shape[1]}, {self.image_shape[2]})")
        return f"is conditional and takes {' and '.join(taken)}" if taken else "is unconditional and takes no condition"

    def _checked(self, name: str, given: Any, images: int, shape: tuple[int, ...]) -> Tensor:
        try:
            part = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise RequestError(f"{name} are no tensor: {first_line(error)}; this model {self._takes()}") from None
        whole = not (part.is_floating_point() or part.is_complex() or part.dtype == torch.bool)
        if part.is_complex() or (name == "labels" and not whole):
            kind = "integers" if name == "labels" else "real numbers"
            raise RequestError(f"{name} are {part.dtype}, not {kind}; this model {self._takes()}")
        if name == "labels":
            part = part.long()  # -1 is beyond what bytes compare with
            lowest = -1 if self.condition_dropout else 0
            outside = part[(part < lowest) | (part >= self.num_classes)].flatten()
            if len(outside):
                raise RequestError(f"label {int(outside[0])} is no class; this model {self._takes()}")
        elif not part.isfinite().all():
            raise RequestError(f"{name} hold values that are not finite")
        if tuple(part.shape) == shape:
            part = part.expand(images, *shape)
        if tuple(part.shape) != (images, *shape):
            raise RequestError(
                f"{name} have shape {tuple(part.shape)} for {images} images; pass {(images, *shape)}, one each, or "
                f"{shape}, one for all"
            )
        return part
