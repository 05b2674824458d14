"""What a data set is, and the protocols that turn its bytes into the values a model takes."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from zoo.errors import RequestError

Protocol = Literal["threshold", "dynamic", "none"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """One split of a data set, all of it in memory as bytes.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, or None.
        num_classes: how many classes the labels name, or None.
        vectors: (N, D) float32, an embedding of each image, or None.
        maps: (N, K, H, W) float32, or None.
        classes: what the classes are called, in the order of their numbers; empty where they have no names.
    """

    images: Tensor
    labels: Tensor | None = None
    num_classes: int | None = None
    vectors: Tensor | None = None
    maps: Tensor | None = None
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        """The sha256 of all of it."""
        parts = (self.images, self.labels, self.vectors, self.maps)
        whole = hashlib.sha256()
        for part in parts:
            whole.update(b"none" if part is None else str(tuple(part.shape)).encode() + part.cpu().numpy().tobytes())
        return whole.hexdigest()

    def to(self, device: torch.device) -> "ImageSet":
        """The same, in the memory of a device."""
        return self.each(lambda part: part.to(device))

    def each(self, change: Callable[[Tensor], Tensor]) -> "ImageSet":
        """The same with each tensor changed: ``data.each(lambda part: part[:100])`` are the first 100 images."""
        parts = {name: getattr(self, name) for name in ("images", "labels", "vectors", "maps")}
        return replace(self, **{name: None if part is None else change(part) for name, part in parts.items()})


def levels_of(protocol: str) -> int:
    """How many values a pixel can take under a protocol: 2 or 256."""
    return 256 if protocol == "none" else 2


def to_grid(images: Tensor, protocol: str, generator: torch.Generator | None = None) -> Tensor:
    """Turn bytes (B, C, H, W) into float32 values in [0, 1].

    ``threshold``: 1 where the byte is above 127, that is the grey level above 0.5. ``dynamic``: 1 with probability
    byte / 255, drawn from the generator (Salakhutdinov and Murray, 2008). ``none``: byte / 255, 256 levels.

    Raises:
        RequestError: another protocol.

    Example:
        >>> to_grid(torch.tensor([0, 127, 128, 255], dtype=torch.uint8), "threshold")
        tensor([0., 0., 1., 1.])
    """
    if protocol == "threshold":
        return (images > 127).float()
    if protocol == "dynamic":
        # Drawn on the generator's device, so that the values do not depend on the model's.
        device = generator.device if generator else images.device
        uniform = torch.rand(images.shape, generator=generator, device=device).to(images.device)
        return (uniform * 255 < images).float()
    if protocol == "none":
        return images.float() / 255
    raise RequestError(f"protocol is {protocol!r}; it must be one of {', '.join(PROTOCOLS)}")
