"""Map bias: what a spatial map adds to every channel, at each pixel its own."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.causal import Context


class MapBias(nn.Module):
    r"""Add a 1x1 convolution of a map to a convolution's output.

    .. math:: z_{ij} = x_{ij} + V s_{ij}, \qquad s \in \mathbb{R}^{K \times H \times W}

    Maps (B, channels, H, W) to the same shape. The map is known as a whole before the first pixel is drawn, so that
    what lies below may be in it as well. V has no bias of its own and starts at zero, so that an untrained conditional
    model is the unconditional one.

    Reference: van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2.3.
    Deviation: added after any convolution, not only inside gates.

    Args:
        map_channels: K, the channels of the maps; numbers of the order of 1 train best.
        channels: of the tensor it is added to.

    Raises:
        ValueError: called without maps.

    Example:
        >>> bias = MapBias(map_channels=3, channels=4)
        >>> bias(torch.zeros(2, 4, 8, 8), Context(maps=torch.randn(2, 3, 8, 8))).shape
        torch.Size([2, 4, 8, 8])
    """

    check_with = {"map_channels": 3, "channels": 2}

    def __init__(self, map_channels: int, channels: int) -> None:
        super().__init__()
        self.map_channels, self.channels = map_channels, channels
        self.weight = nn.Parameter(torch.zeros(channels, map_channels, 1, 1))

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Add V s for the maps of the context."""
        if context is None or context.maps is None:
            raise ValueError("this layer is conditional and was given no maps; pass Context(maps=...)")
        maps = context.maps if context.front is None else context.front.here(self, x, context.maps)
        return x + F.conv2d(maps.to(x.dtype), self.weight.to(x.dtype))

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        return f"map_channels={self.map_channels}, channels={self.channels}"
