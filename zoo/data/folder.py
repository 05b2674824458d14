"""A folder of your own images: any sizes and formats, with a class for each sub-folder if there are any."""

import hashlib
import warnings
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

KNOWN = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")


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

    An image is turned as its EXIF data say, laid on white where it is transparent, scaled so that its shorter side has
    the size, and cut around its middle. The splits go by the hash of a file's name, so that files that come or go move
    few others; three readable images are enough for one in each.

    Args:
        split: "train", "validation" or "test".
        data_dir: where a relative path begins; by default the current folder.
        path: the folder. If all images are in sub-folders of it, each of these is a class, in the order of their names.
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
    root = Path(data_dir or ".") / path
    if not root.is_dir():
        raise RequestError(f"there is no folder {str(root)!r}; set data.path to the folder with your images")
    files = [file.relative_to(root) for file in root.rglob("*") if file.suffix.lower() in KNOWN and file.is_file()]
    files = sorted(file for file in files if not any(part.startswith(".") for part in file.parts))
    if not files:
        raise RequestError(f"{str(root)!r} holds no images; known are files that end in {', '.join(KNOWN)}")
    tops = sorted({file.parts[0] for file in files})
    # What lies beside the sub-folders would have no class, so then nothing has one.
    classes = tops if all(len(file.parts) > 1 for file in files) else []

    def shuffled(file: Path) -> bytes:
        return hashlib.sha256(f"{seed} {file.as_posix()}".encode()).digest()

    readable = (
        (file, image)
        for file in sorted(files, key=shuffled)
        if (image := _read(root / file, file, size, mode)) is not None
    )
    count = max(1, round(held_out * len(files)))
    first = {"validation": 0, "test": count, "train": 2 * count}[split]
    chosen = sorted(islice(readable, first, None if split == "train" else first + count), key=lambda pair: pair[0])
    if not chosen:
        raise RequestError(
            f"{str(root)!r} has no readable image left for {split}: {len(files)} files in all, of which {count} are "
            f"for validation and {count} for test; add images, at least three in all"
        )
    labels = torch.tensor([classes.index(file.parts[0]) for file, _ in chosen]) if classes else None
    return ImageSet(torch.stack([image for _, image in chosen]), labels, len(classes) or None)


def _read(path: Path, name: Path, size: int, mode: str) -> Tensor | None:
    """The image (C, size, size) as bytes; None, with a warning, for a file that is none."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
                upright = Image.fromarray((np.asarray(upright) / 257).round().clip(0, 255).astype(np.uint8))
            opaque = Image.new("RGBA", upright.size, "white")
            opaque.alpha_composite(upright.convert("RGBA"))
            square = ImageOps.fit(
                opaque.convert("RGB" if mode == "rgb" else "L"), (size, size), Image.Resampling.LANCZOS
            )
    except Exception as error:  # whatever Pillow's decoders meet in a stranger's bytes
        warnings.warn(f"{name} cannot be read and is left out: {first_line(error)}", stacklevel=2)
        return None
    return torch.from_numpy(np.array(square)).view(size, size, -1).permute(2, 0, 1).contiguous()
