"""Grids and animations of images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import RequestError
from zoo.files import writing

MARGIN = 2
RULE = 0.4
INK, PAPER = (0, 0, 0), (255, 255, 255)
SIZE, LETTERS = 16, 24
"""Of labels: the height in pixels, and how many letters are shown."""


def grid(
    images: Tensor, *, columns: int = 10, labels: Sequence[int | str] | None = None, scale: int = 2
) -> Image.Image:
    """Lay images (N, C, H, W) in [0, 1] out in rows, with each row's label beside it if it has one.

    Args:
        columns: images in a row.
        labels: (N,) classes, as numbers or names; a row's is shown if all its images share it.
        scale: how many times larger than the pixels.

    Example:
        >>> grid(torch.zeros(20, 1, 8, 8), columns=10).size
        (182, 38)
    """
    if len(images) == 0:
        raise RequestError("there are no images to show; ask for at least one")
    columns = min(columns, len(images))
    missing = -len(images) % columns
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdim=True)  # no colours that anybody could name
    cells = F.interpolate(images.detach().float().cpu().clamp(0, 1), scale_factor=scale, mode="nearest")
    cells = F.pad(cells, (0, MARGIN, 0, MARGIN), value=RULE)
    cells = torch.cat([cells, torch.full((missing, *cells.shape[1:]), RULE)])
    sheet = rearrange(cells, "(r k) c h w -> (r h) (k w) c", k=columns)
    sheet = F.pad(sheet, (0, 0, MARGIN, 0, MARGIN, 0), value=RULE)
    picture = Image.fromarray((sheet * 255).round().byte().expand(-1, -1, 3).contiguous().numpy())
    return picture if labels is None else _beside(picture, list(labels), columns, images.shape[2] * scale + MARGIN)


def save_grid(images: Tensor, path: Path, *, columns: int = 10, labels: Sequence[int | str] | None = None) -> None:
    """Write :func:`grid` as PNG."""
    with writing(path) as staged:
        grid(images, columns=columns, labels=labels).save(staged, format="PNG")


def save_animation(
    images: Tensor, path: Path, *, columns: int = 10, labels: Sequence[int | str] | None = None, frames: int = 60
) -> None:
    """Write a GIF of images (N, C, H, W) appearing pixel by pixel, in the raster order they were drawn in."""
    height, width = images.shape[2:]
    order = torch.arange(height * width).view(height, width)
    unknown = torch.full_like(images, 0.35)
    pictures = []
    for frame in range(frames + 1):
        known = order < round(height * width * frame / frames)
        pictures.append(grid(torch.where(known, images, unknown), columns=columns, labels=labels).convert("P"))
    durations = [50] * frames + [2500]
    with writing(path) as staged:
        pictures[0].save(staged, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def named(labels: Sequence[int] | Tensor, classes: Sequence[str]) -> list[str]:
    """Labels as people call them: by the names of the classes, if they have any.

    Example:
        >>> named([1, -1], ["cat", "dog"]), named([7], [])
        (['dog', '-1'], ['7'])
    """
    names = dict(enumerate(classes))
    return [names.get(label, str(label)) for label in map(int, labels)]


def _beside(picture: Image.Image, labels: list[int | str], columns: int, height: int) -> Image.Image:
    texts = [str(label)[:LETTERS] for label in labels]
    longest = max(ImageDraw.Draw(picture).textlength(text, font_size=SIZE) for text in set(texts))
    wide = max(22, round(longest) + 8)
    sheet = Image.new("RGB", (picture.width + wide, picture.height), PAPER)
    sheet.paste(picture, (wide, 0))
    draw = ImageDraw.Draw(sheet)
    for row, first in enumerate(range(0, len(texts), columns)):
        shared = set(texts[first : first + columns])
        if len(shared) == 1:
            middle = MARGIN + row * height + height // 2
            draw.text((wide // 2, middle), shared.pop(), fill=INK, anchor="mm", font_size=SIZE)
    return sheet
