"""A small synthetic set, the same on every machine: bars whose place tells the class."""

from pathlib import Path

import torch

from zoo.data._images import ImageSet

SIZES = {"train": 2048, "validation": 256, "test": 256}


def synthetic(split: str = "train", data_dir: Path | None = None) -> ImageSet:
    """8 x 8 grey images in 10 classes: a vertical bar in column 1 to 5 or a horizontal one in row 1 to 5, with noise.

    Example:
        >>> synthetic("test").images.shape
        torch.Size([256, 1, 8, 8])
    """
    generator = torch.Generator().manual_seed(sorted(SIZES).index(split))
    labels = torch.randint(10, (SIZES[split],), generator=generator)
    images = torch.randint(0, 120, (SIZES[split], 1, 8, 8), generator=generator, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        place = 1 + label % 5
        bar = image[:, :, place] if label < 5 else image[:, place]
        bar += 130
    flip = torch.rand(images.shape, generator=generator) < 0.02
    return ImageSet(torch.where(flip, 255 - images, images), labels, num_classes=10)
