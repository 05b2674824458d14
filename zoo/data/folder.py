"""A folder of your own images: any sizes and formats, with a class for each sub-folder if there are any."""

import hashlib
import os
import unicodedata
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from PIL import Image, ImageOps
from torch import Tensor

from zoo.data._images import ImageSet
from zoo.errors import RequestError, first_line

KNOWN = (".png", ".jpg", ".jpeg", ".jfif", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
UNKNOWN = (".heic", ".heif", ".avif", ".svg", ".raw", ".dng", ".nef", ".cr2")
# Those of which Pillow reads the bytes itself; for others it would start programs.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
NAMED = 10
"""How many broken files are named one by one."""


def folder(
    split: str = "train",
    data_dir: Path | None = None,
    *,
    path: str,
    size: Annotated[int, Gt(0), Le(1024)] = 32,
    mode: Literal["rgb", "grey"] = "rgb",
    held_out: Annotated[float, Gt(0), Le(0.45)] = 0.1,
    seed: Annotated[int, Ge(0)] = 0,
) -> ImageSet:
    """The images of a folder and its sub-folders, cut to squares of one size.

    An image is turned as its EXIF data say, scaled so that its shorter side has the size, cut around its middle and
    laid on white where it is transparent; of 16 bits the upper 8 count, of an animation the first frame. The splits go
    by the hash of a file's name, so that files that come or go move few others.

    Args:
        split: "train", "validation" or "test".
        data_dir: where a relative path begins; by default the current folder.
        path: the folder; "~" is your home. If all images are in sub-folders of it, each of these is a class, in the
            order of their names.
        size: height and width.
        mode: "rgb" for 3 channels, "grey" for 1.
        held_out: the share of validation, and that of test.
        seed: another one makes other splits.

    Raises:
        RequestError: no such folder, or no readable image for this split. Files that cannot be read are named in a
            warning and left out.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     for number in range(10):
        ...         Image.new("RGB", (40 + number, 50), (number, 0, 0)).save(f"{place}/{number}.png")
        ...     folder("train", path=place).images.shape
        torch.Size([8, 3, 32, 32])
    """
    # Path.expanduser stops at a user that there is not.
    root = (Path(data_dir or ".") / os.path.expanduser(path)).absolute()  # noqa: PTH111
    if not root.is_dir():
        raise RequestError(
            f"there is no folder {str(root)!r}; name the one with your images: data.path in a recipe, "
            "--data '{name: folder, path: ...}' elsewhere; a relative path begins at --data-dir, or where you are"
        )
    files = _files(root)
    if not files:
        raise RequestError(f"{str(root)!r} holds no images; known are files that end in {', '.join(KNOWN)}")
    tops = sorted({file.parts[0] for file in files})
    stray = [file for file in files if len(file.parts) == 1]
    # What lies beside the sub-folders would have no class, so then nothing has one.
    classes = [] if stray else tops
    if 0 < len(stray) < len(files):
        warnings.warn(
            f"{_printable(stray[0])} lies beside the sub-folders, so no image has a class; move it into one of them",
            stacklevel=2,
        )

    def shuffled(file: Path) -> bytes:
        # One name for what systems write differently; a name may be no text at all.
        name = unicodedata.normalize("NFC", f"{seed} {file.as_posix()}")
        return hashlib.sha256(os.fsencode(name)).digest()

    broken: list[str] = []

    def readable() -> Iterator[tuple[Path, Tensor]]:
        for file in sorted(files, key=shuffled):
            try:
                yield file, _read(root / file, size, mode)
            except Exception as error:  # whatever Pillow's decoders meet in a stranger's bytes
                broken.append(f"{_printable(file)} cannot be read and is left out: {first_line(error)}")

    count = max(1, min(round(held_out * len(files)), (len(files) - 1) // 2))
    first = {"validation": 0, "test": count, "train": 2 * count}[split]
    chosen = sorted(islice(readable(), first, None if split == "train" else first + count), key=lambda pair: pair[0])
    for message in broken[:NAMED]:
        warnings.warn(message, stacklevel=2)
    if len(broken) > NAMED:
        warnings.warn(f"and {len(broken) - NAMED} more that cannot be read", stacklevel=2)
    if not chosen:
        raise RequestError(
            f"{str(root)!r} has no readable image left for {split}: of {len(files)} files {count} are for validation, "
            f"{count} for test, and {len(broken)} of those looked at cannot be read; three readable ones are the least"
        )
    labels = torch.tensor([classes.index(file.parts[0]) for file, _ in chosen]) if classes else None
    names = tuple(map(_printable, classes))
    return ImageSet(torch.stack([image for _, image in chosen]), labels, len(classes) or None, classes=names)


def _files(root: Path) -> list[Path]:
    """The images below a folder, links followed, each folder once."""
    files, unknown, visited = [], [], set()
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        # In order, so that of two links to one folder the same is followed everywhere.
        folders[:] = [] if real in visited else sorted(name for name in folders if not name.startswith("."))
        here = [] if real in visited else [Path(place, name) for name in names if not name.startswith(".")]
        visited.add(real)
        files += [file.relative_to(root) for file in here if file.suffix.lower() in KNOWN and file.is_file()]
        unknown += [file.suffix for file in here if file.suffix.lower() in UNKNOWN]
    if unknown:
        kinds = ", ".join(sorted(set(unknown)))
        warnings.warn(f"{len(unknown)} files are left out: {kinds} is not read; convert them first", stacklevel=3)
    return sorted(files)


def _read(path: Path, size: int, mode: str) -> Tensor:
    """The image (C, size, size) as bytes."""
    with Image.open(path, formats=FORMATS) as image:
        # A JPEG is decoded no finer than needed.
        image.draft("RGB", (4 * size, 4 * size))
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            values = np.asarray(upright)
            if values.min() < 0 or values.max() > 65535:
                raise ValueError(f"its values go from {values.min()} to {values.max()}, not from 0 to 65535")
            grey, clear = (values >> 8).astype(np.uint8), upright.info.get("transparency")
            if clear is not None:
                grey = np.stack([grey, np.where(values == clear, 0, 255).astype(np.uint8)], -1)
            upright = Image.fromarray(grey)
        elif upright.mode == "F":
            raise ValueError("its values are floats, of which nobody knows how bright they are")
        transparent = upright.has_transparency_data
        square = ImageOps.fit(upright.convert("RGBA" if transparent else "RGB"), (size, size), Image.Resampling.LANCZOS)
        if transparent:
            square = Image.alpha_composite(Image.new("RGBA", square.size, "white"), square)
        array = np.array(square.convert("RGB" if mode == "rgb" else "L"))
    return torch.from_numpy(array).view(size, size, -1).permute(2, 0, 1).contiguous()


def _printable(file: Path | str) -> str:
    return str(file).encode(errors="replace").decode()
