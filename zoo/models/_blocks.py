"""The slot for blocks that model families share."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from typing import Annotated, Any

from annotated_types import Gt, Le
from torch import nn

from zoo.causal import required
from zoo.registry import LAYERS

Positive = Annotated[int, Gt(0)]
Side = Annotated[int, Gt(0), Le(1024)]


def blocks(
    block: str | dict[str, Any],
    channels: int,
    layers: int,
    dilations: Sequence[int],
    *,
    streams: int = 1,
    num_classes: int | None,
    **others: tuple[Any, Any],
) -> Iterator[nn.Module]:
    """So many blocks of a registered layer, dilated in turn.

    Args:
        block: what the slot says: the layer's name, or a mapping of ``name`` and its arguments.
        streams: how many tensors the model hands from block to block.
        others: further arguments, each with the value that means that it is not used. A block of somebody's own need
            know only what its model uses.

    Raises:
        ValueError: the block maps another number of tensors.
    """
    for dilation in islice(cycle(dilations), layers):
        given = others | {"dilation": (dilation, 1)}
        used = {name: value for name, (value, unused) in given.items() if value != unused}
        built = LAYERS.build(block, channels, num_classes=num_classes, **used)
        if (mapped := len(required(built))) != streams:
            raise ValueError(
                f"block {block!r} maps {mapped} tensors, this model hands on {streams}; "
                f"choose {'gated-block' if streams == 3 else 'residual-block'}, or another model"
            )
        yield built
