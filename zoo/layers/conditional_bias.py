"""Conditional bias: what a class adds to every channel, everywhere in the image."""

import torch
from torch import Tensor, nn

from zoo.causal import Context


class ConditionalBias(nn.Module):
    r"""Add V y to a convolution's output: the same for every pixel, another for every class.

    .. math:: z_{ij} = x_{ij} + V y, \qquad y \in \{0, 1\}^{K} \text{ one-hot}

    Maps (B, channels, H, W) to the same shape. V has no bias of its own: that is the convolution's. It starts at zero,
    so that an untrained conditional model is the unconditional one. The label -1 stands for no class: y = 0.

    Reference: van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2.3.
    Deviation: added after any convolution, not only inside gates.

    Args:
        num_classes: K, the number of classes.
        channels: of the tensor it is added to.

    Raises:
        ValueError: called without labels.

    Example:
        >>> bias = ConditionalBias(num_classes=10, channels=4)
        >>> bias(torch.zeros(2, 4, 8, 8), Context(labels=torch.tensor([0, 9]))).shape
        torch.Size([2, 4, 8, 8])
    """

    check_with = {"num_classes": 10, "channels": 2}

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        self.num_classes, self.channels = num_classes, channels
        self.weight = nn.Parameter(torch.zeros(num_classes, channels))

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Add V y for the labels of the context."""
        if context is None or context.labels is None:
            raise ValueError("this layer is conditional and was given no labels; pass Context(labels=...)")

        def bias() -> Tensor:
            known = (context.labels >= 0)[:, None]
            return torch.where(known, self.weight[context.labels.clamp(min=0)], 0)[:, :, None, None].to(x.dtype)

        return x + (bias() if context.front is None else context.front.once(self, bias, context.labels))

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        return f"num_classes={self.num_classes}, channels={self.channels}"
