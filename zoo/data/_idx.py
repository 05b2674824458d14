"""Data sets in MNIST's format, read by torchvision's own code."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

from zoo.data._images import ImageSet
from zoo.errors import FailedError, RequestError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TRAINING_IMAGES = 55_000
"""Of 60,000; the others are for validation."""


def cache() -> Path:
    """The user's folder for data sets; environment variable ``ZOO_CACHE`` moves it."""
    return Path(os.environ.get("ZOO_CACHE") or user_cache_path("pixelzoo")) / "data"


def read(kind: str, split: str, root: Path, download: bool) -> ImageSet:
    """One split of torchvision's data set ``kind``: train, validation (the last twelfth of its training set) or test.

    Args:
        kind: the name of torchvision's class, and of its folder: root/kind/raw holds the files.
        download: fetch what is missing, with torchvision's own addresses and checksums.

    Raises:
        RequestError: files are missing and not to be fetched.
        FailedError: they cannot be fetched or read.
    """
    source = _torchvision(kind)
    raw = root / kind / "raw"
    missing = [str(raw / name) for name in FILES if not (raw / name).is_file()]
    if missing and not download:
        raise RequestError(
            f"no {kind} in {root}; missing {', '.join(missing)}; name a folder with {kind}/raw in torchvision's "
            "layout, or leave the data folder out"
        )
    try:
        data = source(root, train=split != "test", download=bool(missing))
    except Exception as error:  # torchvision asserts, unpacks and downloads whatever it finds
        where = f"{kind} could not be fetched to {raw}" if missing else f"{kind} in {root} cannot be read"
        raise FailedError(
            f"{where}: {' '.join(str(error).split())}; copy its files there ({', '.join(FILES)}), "
            "delete them to have them fetched again, or name their folder with --data-dir"
        ) from None
    held_out = len(data) * TRAINING_IMAGES // 60_000
    part = {"train": slice(held_out), "validation": slice(held_out, None), "test": slice(None)}[split]
    # MNIST's own are "0 - zero" and so on; its digits are names enough.
    classes = tuple(name.split(" - ")[0] for name in data.classes)
    return ImageSet(data.data[part].unsqueeze(1), data.targets[part], num_classes=len(classes), classes=classes)


def _torchvision(kind: str) -> Callable[..., Any]:
    try:
        from torchvision import datasets
    except RuntimeError as error:  # "operator torchvision::nms does not exist"
        raise FailedError(
            f"torchvision does not fit the installed torch {torch.__version__} ({error}); install both from the same "
            "place: pip install --force-reinstall torch torchvision"
        ) from None
    return getattr(datasets, kind)
