"""FashionMNIST: articles of clothing in MNIST's format, fetched and read with torchvision."""

from pathlib import Path

from zoo.data import _idx
from zoo.data._images import ImageSet


def fashion_mnist(split: str = "train", data_dir: Path | None = None) -> ImageSet:
    """28 x 28 grey pictures of clothing in 10 classes: 55,000 for training, 5,000 for validation, 10,000 for test.

    Validation is the last 5,000 of the 60,000 training images; test is the test set. The classes are T-shirt, trouser,
    pullover, dress, coat, sandal, shirt, sneaker, bag and ankle boot.

    Reference: Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017 (arXiv:1708.07747); licence MIT.

    Args:
        split: "train", "validation" or "test".
        data_dir: a folder with ``FashionMNIST/raw`` in torchvision's layout; by default the user's cache, to which it
            is downloaded once.

    Raises:
        RequestError: ``data_dir`` does not hold it.
        FailedError: it cannot be fetched or read.
    """
    return _idx.read("FashionMNIST", split, Path(data_dir or _idx.cache()), download=data_dir is None)
