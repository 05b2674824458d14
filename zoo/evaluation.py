"""Nats per image and bits per dimension, with the protocol that gives them a meaning."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data import ImageSet, to_grid
from zoo.errors import RequestError
from zoo.models import PixelModel
from zoo.sampling import share

DRAWS = 4
"""How often ``dynamic`` draws the bits of an image for a figure to be reported."""


@dataclass(frozen=True)
class Result:
    """A likelihood, and what it was measured on.

    Args:
        dataset, split, protocol: the data; ``dynamic`` draws its bits from ``seed``, ``draws`` times over.
        images: how many.
        nats_per_image: mean of -log p(x), over the images and the draws.
        nats_std_error: standard error of that mean over the images, each with its mean over the draws.
        bits_per_dim: nats_per_image / (C H W log 2).
    """

    dataset: str
    split: str
    protocol: str
    seed: int
    draws: int
    images: int
    nats_per_image: float
    nats_std_error: float
    bits_per_dim: float


@torch.no_grad()
def evaluate(
    model: PixelModel,
    data: ImageSet,
    *,
    dataset: str,
    split: str,
    protocol: str,
    seed: int = 0,
    draws: int = 1,
    batch_size: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """The mean negative log-likelihood of a data set, in float32 (or the model's own precision).

    Args:
        seed: of the bits that ``dynamic`` draws; each draw goes through all images with bits of its own.
        draws: how many, for ``dynamic``; the other protocols draw nothing, and are measured once.
        progress: called with the images done and the images in all, after each batch.

    Raises:
        RequestError: no images, or a protocol whose values the model's likelihood does not have.
    """
    if len(data) == 0:
        raise RequestError(f"the {split} split of {dataset} holds no images")
    check_fit(model, data)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    draws = draws if protocol == "dynamic" else 1
    training = model.training
    model.eval()
    nats = []
    for draw in range(draws):
        for first in range(0, len(data), batch_size):
            part = slice(first, first + batch_size)
            x = to_grid(data.images[part].to(device), protocol, generator)
            nats.append(-model.log_prob(x, **condition(model, data, part)).double().cpu())
            if progress:
                progress(draw * len(data) + min(first + batch_size, len(data)), draws * len(data))
    model.train(training)
    per_image = torch.cat(nats).view(draws, -1).mean(0)
    mean = per_image.mean().item()
    spread = per_image.std().item() if len(data) > 1 else 0.0
    return Result(
        dataset=dataset,
        split=split,
        protocol=protocol,
        seed=seed,
        draws=draws,
        images=len(data),
        nats_per_image=mean,
        nats_std_error=spread / math.sqrt(len(data)),
        bits_per_dim=mean / (math.prod(model.image_shape) * math.log(2)),
    )


@torch.no_grad()
def pixel_nats(
    model: PixelModel,
    data: ImageSet,
    x: Tensor,
    *,
    batch_size: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """What each pixel of each image costs, -log p(x_i | x_<i): (N, H, W) nats, whose sums are those of the images.

    Args:
        data: the images' conditions.
        x: the images (N, C, H, W) as a protocol makes them, in [0, 1].
        progress: called with the images done and the images in all, after each batch.

    Raises:
        RequestError: the data does not fit the model.
    """
    check_fit(model, data)
    model.check_grid(x)
    device = next(model.parameters()).device
    model.eval()
    nats = []
    for first in range(0, len(x), batch_size):
        part = slice(first, first + batch_size)
        batch = x[part].to(device)
        logits = model(batch, model.condition(len(batch), **condition(model, data, part)))
        # Each pixel as an image of its own: the likelihood adds up what belongs to one image.
        alone = (tensor.movedim(1, -1).reshape(-1, tensor.shape[1], 1, 1) for tensor in (logits, batch))
        nats.append(-model.likelihood.log_prob(*alone).view(len(batch), *x.shape[2:]).cpu())
        if progress:
            progress(min(first + batch_size, len(x)), len(x))
    return torch.cat(nats)


def check_fit(model: PixelModel, data: ImageSet) -> None:
    """Refuse data that the model cannot take.

    Raises:
        RequestError: the image shape or the classes differ.
    """
    if tuple(data.images.shape[1:]) != model.image_shape:
        raise RequestError(
            f"the images have shape {tuple(data.images.shape[1:])}, the model takes {model.image_shape}; "
            "set the model's image_shape or choose other data"
        )
    if model.num_classes is not None and (data.labels is None or (data.num_classes or 0) > model.num_classes):
        raise RequestError(
            f"the data has {data.num_classes or 'no'} classes, the model is conditional on {model.num_classes}; "
            "set the model's num_classes or choose other data"
        )
    for name, size in (("vectors", model.vector_size), ("maps", model.map_channels)):
        part = getattr(data, name)
        if size is not None and (part is None or part.shape[1] != size):
            raise RequestError(
                f"the data has {f'{name} of size {part.shape[1]}' if part is not None else f'no {name}'}, the model is "
                f"conditional on {name} of size {size}; set the model's "
                f"{'vector_size' if name == 'vectors' else 'map_channels'} or choose other data"
            )


def prompts(model: PixelModel, data: ImageSet, images: int) -> tuple[int, dict[str, Tensor]]:
    """What to draw images under to see what a model can do: all classes in equal shares, or what belongs to images.

    Returns how many images these are, no more than there are in the data if each is told more than its class, and the
    conditions, as :meth:`PixelModel.sample` takes them. These are of images from all over the data, because a folder
    has one class after the other.
    """
    if not told_of_each(model):
        told = {} if model.num_classes is None else {"labels": torch.tensor(share(range(model.num_classes), images))}
        return images, told
    images = min(images, len(data))
    return images, condition(model, data, torch.linspace(0, len(data) - 1, images).long())


def told_of_each(model: PixelModel) -> bool:
    """Whether it is told more of an image than its class."""
    return bool({"vectors", "maps"} & {*model.takes})


def condition(model: PixelModel, data: ImageSet, part: slice | Tensor) -> dict[str, Tensor]:
    """What the model is conditional on, of a part of the images: ``labels``, ``vectors``, ``maps``."""
    return {name: getattr(data, name)[part] for name in model.takes}
