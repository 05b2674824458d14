"""Any data set with few training images: where a prior has something to say."""

from pathlib import Path
from typing import Annotated, Any

import torch
from annotated_types import Gt

from zoo.data._images import ImageSet
from zoo.registry import DATA


def few(
    split: str = "train",
    data_dir: Path | None = None,
    *,
    of: str | dict[str, Any] = "mnist",
    images: Annotated[int, Gt(0)] = 500,
) -> ImageSet:
    """A data set of whose training images only some are left, drawn once; validation and test are whole.

    Args:
        split, data_dir: of the data set.
        of: its name, or a mapping of ``name`` and its arguments.
        images: how many to train on.

    Example:
        >>> [len(few(split, of="synthetic", images=50)) for split in ("train", "test")]
        [50, 256]
    """
    data = DATA.build(of, split, data_dir)
    if split != "train":
        return data
    # Not the first ones: of a folder these would be one class.
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:images].sort().values
    return data.each(lambda part: part[chosen])
