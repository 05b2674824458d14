"""Vector bias: what an embedding adds to every channel, everywhere in the image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.causal import Context


class VectorBias(nn.Module):
    r"""Add V h to a convolution's output: the same for every pixel, another for every vector.

    .. math:: z_{ij} = x_{ij} + V h, \qquad h \in \mathbb{R}^{D}

    Maps (B, channels, H, W) to the same shape. V has no bias of its own and starts at zero, so that an untrained
    conditional model is the unconditional one.

    Reference: van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2.3.
    Deviation: added after any convolution, not only inside gates.

    Args:
        vector_size: D, the size of the vectors; numbers of the order of 1 train best. All zeros are no condition.
        channels: of the tensor it is added to.

    Raises:
        ValueError: called without vectors.

    Example:
        >>> bias = VectorBias(vector_size=3, channels=4)
        >>> bias(torch.zeros(2, 4, 8, 8), Context(vectors=torch.randn(2, 3))).shape
        torch.Size([2, 4, 8, 8])
    """

    check_with = {"vector_size": 3, "channels": 2}

    def __init__(self, vector_size: int, channels: int) -> None:
        super().__init__()
        self.vector_size, self.channels = vector_size, channels
        self.weight = nn.Parameter(torch.zeros(channels, vector_size))

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Add V h for the vectors of the context."""
        if context is None or context.vectors is None:
            raise ValueError("this layer is conditional and was given no vectors; pass Context(vectors=...)")

        def bias() -> Tensor:
            return F.linear(context.vectors.to(self.weight.dtype), self.weight)[:, :, None, None].to(x.dtype)

        return x + (bias() if context.front is None else context.front.once(self, bias, context.vectors))

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        return f"vector_size={self.vector_size}, channels={self.channels}"
