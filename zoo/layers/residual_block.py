"""Residual block: a masked convolution of the activated input, added to the input."""

from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.causal import Context, call
from zoo.layers._conditioned import conditioned
from zoo.layers.masked_conv2d import MaskedConv2d
from zoo.registry import LAYERS


class ResidualBlock(nn.Module):
    r"""Add a masked convolution of the rectified input to the input.

    .. math:: y = x + W * \max(0, \operatorname{norm}(x)) + b \; (+ V_y y + V_h h + V_s * s)

    Maps (B, channels, H, W) to the same shape. Any layer that takes ``channels`` and ``num_classes`` can stand in a
    model's slot for blocks; ``dilation``, ``colors``, ``vector_size`` and ``map_channels`` only if a model uses them.

    Reference: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, section 3.4, figure 5.
    Deviation: one k x k convolution at full width instead of 1x1, 3x3, 1x1 with a bottleneck; docs/log.md has both
    measured.

    Args:
        channels: in and out.
        num_classes, vector_size, map_channels: of the biases for labels, vectors and maps, or None for none.
        kernel_size: odd.
        dilation: distance between the taps; a larger one sees further for the same work.
        colors: how many groups the channels are ordered by; see :class:`zoo.layers.MaskedConv2d`.
        norm: name of a registered layer that takes ``channels`` (and ``colors`` if they are several), or None for none.

    Example:
        >>> import torch
        >>> ResidualBlock(8)(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 8, 5, 5])
    """

    check_with = {"channels": 3}

    def __init__(
        self,
        channels: Annotated[int, Gt(0)],
        *,
        num_classes: Annotated[int, Gt(0)] | None = None,
        vector_size: Annotated[int, Gt(0)] | None = None,
        map_channels: Annotated[int, Gt(0)] | None = None,
        kernel_size: Annotated[int, Gt(0), Le(1024)] = 3,
        dilation: Annotated[int, Gt(0), Le(1024)] = 1,
        colors: Annotated[int, Gt(0)] = 1,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.colors = channels, colors
        ordered = {} if colors == 1 else {"colors": colors}
        self.norm = LAYERS.build(norm, channels, **ordered) if norm else nn.Identity()
        convolution = MaskedConv2d("B", channels, channels, kernel_size, dilation=dilation, colors=colors)
        self.conv = conditioned(convolution, num_classes, vector_size, map_channels)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Run the block."""
        return x + call(self.conv, F.relu(self.norm(x)), context)
