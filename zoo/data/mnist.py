"""MNIST: it travels inside the package and is read with torchvision."""

import gzip
import hashlib
from pathlib import Path

from zoo.data import _idx
from zoo.data._images import ImageSet
from zoo.files import writing

# MD5 of the unpacked files.
FILES = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
PACKED = Path(__file__).parent / "files" / "mnist"


def mnist(split: str = "train", data_dir: Path | None = None) -> ImageSet:
    """28 x 28 grey digits in 10 classes: 55,000 for training, 5,000 for validation, 10,000 for test.

    Validation is the last 5,000 of the 60,000 training images; test is the test set.

    Reference: LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998; licence CC BY-SA 3.0.

    Args:
        split: "train", "validation" or "test".
        data_dir: a folder with ``MNIST/raw`` in torchvision's layout; by default the user's cache, filled from the
            package (environment variable ``ZOO_CACHE`` moves it).

    Raises:
        RequestError: ``data_dir`` does not hold MNIST.

    Example:
        >>> mnist("validation").images.shape
        torch.Size([5000, 1, 28, 28])
    """
    if data_dir is not None:
        return _idx.read("MNIST", split, Path(data_dir), download=False)
    _unpack(_idx.cache() / "MNIST" / "raw")
    return _idx.read("MNIST", split, _idx.cache(), download=not PACKED.is_dir())


def _unpack(raw: Path) -> None:
    """Unpack what is missing or damaged; each file appears whole or not at all."""
    for name, checksum in FILES.items():
        target, packed = raw / name, PACKED / f"{name}.gz"
        if not packed.is_file() or (target.is_file() and _md5(target.read_bytes()) == checksum):
            continue
        content = gzip.decompress(packed.read_bytes())
        if _md5(content) != checksum:
            raise OSError(f"{packed} is damaged: its content has not the MD5 {checksum}; reinstall pixelzoo")
        raw.mkdir(parents=True, exist_ok=True)
        with writing(target) as staged:
            staged.write_bytes(content)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
