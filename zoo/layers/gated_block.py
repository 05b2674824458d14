"""Gated block: one layer of the vertical and of the horizontal stack of a Gated PixelCNN."""

from typing import Annotated

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from zoo.causal import Context, call
from zoo.layers._conditioned import conditioned
from zoo.layers.gated_activation import GatedActivation, halves
from zoo.layers.masked_conv2d import MaskedConv2d
from zoo.layers.shift_down import ShiftDown
from zoo.layers.vertical_conv2d import VerticalConv2d

Positive = Annotated[int, Gt(0)]
VERTICAL_GAIN, JOIN_GAIN = 3.0, 2.0


class GatedBlock(nn.Module):
    r"""A gated convolution of the vertical stack, joined by a gated convolution of the horizontal one.

    .. math::
        g_v &= \operatorname{gate}(W_v * v \; + V_v c) \\
        g_h &= \operatorname{gate}(W_h * h + W_{vh} \operatorname{shift}(g_v) \; + V_h c) \\
        (v, h, s) &\leftarrow (g_v, \; h + W_r g_h, \; s + W_s g_h)

    with gate(a, b) = tanh(a) * sigmoid(b), biases left out, c the condition. v sees whole rows, h the pixels up to its
    own; what v knows of a row joins h one row further down, so that h has no blind spot.

    Maps v (B, vertical_channels, H, W), h and the skip connections' sum s (B, channels, H, W) to the same shapes. The
    vertical stack has no residual, as in the paper: each block's v is a column or more behind the one before it while
    fronts are drawn, and the two could not be added.

    Reference: van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2, figure 2.
    Deviations: the vertical stack joins by its activated features and may be narrower; skip connections as in van den
    Oord et al., WaveNet, 2016; both convolutions may be dilated; what the vertical stack is read by starts out larger.

    Args:
        channels: of the horizontal stack and of s.
        vertical_channels: of the vertical stack; by default as many.
        num_classes, vector_size, map_channels: of the biases for labels, vectors and maps, inside the gates, or None.
        kernel_size: columns of both convolutions, and twice the rows that the vertical one sees above, about; odd.
        dilation: distance between the taps of both; a larger one sees further for the same work.
        colors: how many groups the channels of h and s are ordered by; see :class:`zoo.layers.MaskedConv2d`.

    Example:
        >>> import torch
        >>> v, h, s = GatedBlock(8)(*[torch.zeros(2, 8, 5, 5)] * 3)
        >>> h.shape
        torch.Size([2, 8, 5, 5])
    """

    check_with = {"channels": 3}

    def __init__(
        self,
        channels: Positive,
        *,
        vertical_channels: Positive | None = None,
        num_classes: Positive | None = None,
        vector_size: Positive | None = None,
        map_channels: Positive | None = None,
        kernel_size: Annotated[int, Gt(0), Le(1024)] = 3,
        dilation: Annotated[int, Gt(0), Le(1024)] = 1,
        colors: Positive = 1,
    ) -> None:
        super().__init__()
        self.channels, self.colors = channels, colors
        wide = vertical_channels or channels
        condition = (num_classes, vector_size, map_channels)
        vertical = VerticalConv2d(wide, 2 * wide, kernel_size, dilation=dilation)
        self.vertical = conditioned(vertical, *condition)
        self.vertical_gate = GatedActivation()
        self.shift = ShiftDown()
        self.join = MaskedConv2d("B", wide, 2 * channels, 1, bias=False)
        with torch.no_grad():
            # A fresh convolution gives 0.6 of what it sees, a gate passes half: without residual, v would soon be gone.
            vertical.weight.mul_(VERTICAL_GAIN)
            self.join.weight.mul_(JOIN_GAIN)
        size = (1, kernel_size)
        horizontal = MaskedConv2d("B", channels, 2 * channels, size, dilation=(1, dilation), colors=colors)
        self.horizontal = conditioned(horizontal, *condition)
        self.horizontal_gate = GatedActivation(colors)
        # Residual and skip connection in one product: while fronts are drawn, the time goes into starting products.
        self.out = MaskedConv2d("B", channels, 2 * channels, 1, colors=colors)

    def forward(self, v: Tensor, h: Tensor, s: Tensor, context: Context | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Run the block on the vertical stack, the horizontal one and the sum of skip connections."""
        v = self.vertical_gate(call(self.vertical, v, context))
        joined = call(self.join, self.shift(v, context), context)
        gated = self.horizontal_gate(call(self.horizontal, h, context) + joined)
        residual, skip = halves(call(self.out, gated, context), self.colors)
        return v, h + residual, s + skip
