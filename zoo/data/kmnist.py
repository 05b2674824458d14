"""KMNIST: cursive Japanese characters in MNIST's format, fetched and read with torchvision."""

from pathlib import Path

from zoo.data import _idx
from zoo.data._images import ImageSet


def kmnist(split: str = "train", data_dir: Path | None = None) -> ImageSet:
    """28 x 28 grey hiragana in 10 classes: 55,000 for training, 5,000 for validation, 10,000 for test.

    Validation is the last 5,000 of the 60,000 training images; test is the test set. The classes are the characters o,
    ki, su, tsu, na, ha, ma, ya, re and wo.

    Reference: Clanuwat et al., Deep Learning for Classical Japanese Literature, 2018 (arXiv:1812.01718); licence
    CC BY-SA 4.0.

    Args:
        split: "train", "validation" or "test".
        data_dir: a folder with ``KMNIST/raw`` in torchvision's layout; by default the user's cache, to which it is
            downloaded once.

    Raises:
        RequestError: ``data_dir`` does not hold it.
        FailedError: it cannot be fetched or read.
    """
    return _idx.read("KMNIST", split, Path(data_dir or _idx.cache()), download=data_dir is None)
