"""Any data set with a coarse copy of each image as its map: what super-resolution begins from."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch.nn import functional as F

from zoo.data._images import ImageSet
from zoo.errors import RequestError
from zoo.registry import DATA


def coarse(
    split: str = "train",
    data_dir: Path | None = None,
    *,
    of: str | dict[str, Any] = "mnist",
    factor: Annotated[int, Gt(1)] = 4,
) -> ImageSet:
    r"""The images of a data set, each with the means of its squares of ``factor`` x ``factor`` pixels as map.

    .. math::
        s_{ij} = \frac{2}{255 f^2} \sum_{u, v < f} x_{f \lfloor i / f \rfloor + u, f \lfloor j / f \rfloor + v} - 1

    so (N, C, H, W) in [-1, 1], as large as the images and constant in each square.

    Args:
        split, data_dir: of the data set.
        of: its name, or a mapping of ``name`` and its arguments.
        factor: f; divides height and width.

    Raises:
        RequestError: it does not.

    Example:
        >>> coarse("test", of="synthetic", factor=2).maps.shape
        torch.Size([256, 1, 8, 8])
    """
    data = DATA.build(of, split, data_dir)
    height, width = data.images.shape[2:]
    if height % factor or width % factor:
        raise RequestError(f"factor is {factor}; it must divide the images' height and width, {height} and {width}")
    means = torch.cat([F.avg_pool2d(part.float(), factor) for part in data.images.split(1000)])
    maps = F.interpolate(means / 127.5 - 1, scale_factor=factor, mode="nearest")
    return replace(data, maps=maps)
