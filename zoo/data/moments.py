"""Any data set with the moments of each image as its vector: how much ink, how wide, how high, how slanted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data._images import ImageSet
from zoo.registry import DATA


def moments(split: str = "train", data_dir: Path | None = None, *, of: str | dict[str, Any] = "mnist") -> ImageSet:
    """The images of a data set, each with four numbers of :func:`measured` as vector (N, 4): ink, width, height, slant.

    Args:
        split, data_dir: of the data set.
        of: its name, or a mapping of ``name`` and its arguments.

    Example:
        >>> moments("test", of="synthetic").vectors.shape
        torch.Size([256, 4])
    """
    data = DATA.build(of, split, data_dir)
    # In parts, since each needs memory several times over.
    vectors = torch.cat([measured(part.float() / 255) for part in data.images.split(1000)])
    return replace(data, vectors=vectors)


def measured(images: Tensor) -> Tensor:
    r"""Ink, width, height and slant of images (N, C, H, W) in [0, 1]: (N, 4), each of the order of 1.

    With the grey levels, averaged over channels, as weights :math:`w_{ij}` of the pixels, and means over those weights:

    .. math:: \Big(10 \bar w - 1, \quad \tfrac{10}{W} \sigma_j - 1.5, \quad \tfrac{10}{H} \sigma_i - 1.5, \quad
              -\frac{\operatorname{cov}(i, j)}{\sigma_i^2}\Big)

    The slant is how many columns a stroke goes to the right for each row up: 0 upright, 1 at 45 degrees.

    Example:
        >>> stroke = torch.eye(9).flip(0).view(1, 1, 9, 9)  # from lower left to upper right
        >>> round(measured(stroke)[0, 3].item(), 3)
        1.0
    """
    weight = images.mean(1)
    height, width = weight.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(height) + 0.0, torch.arange(width) + 0.0, indexing="ij")
    # An image without ink has the moments of an even grey.
    share = (weight + 1e-6) / (weight + 1e-6).sum((1, 2), keepdim=True)

    def mean(values: Tensor) -> Tensor:
        return (share * values).sum((1, 2))

    row, column = (mean(place)[:, None, None] for place in (rows, columns))
    down, across, both = (
        mean(v) for v in ((rows - row) ** 2, (columns - column) ** 2, (rows - row) * (columns - column))
    )
    return torch.stack(
        [
            10 * weight.mean((1, 2)) - 1,
            10 / width * across.sqrt() - 1.5,
            10 / height * down.sqrt() - 1.5,
            -both / down.clamp(min=1e-6),
        ],
        1,
    )
