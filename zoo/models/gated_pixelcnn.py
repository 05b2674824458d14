"""Gated PixelCNN: a vertical stack that sees whole rows, a horizontal one that sees its own, and no blind spot."""

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, Lt, MinLen
from torch import Tensor, nn

from zoo.causal import Context, Sequential, call
from zoo.layers._conditioned import conditioned
from zoo.layers.masked_conv2d import MaskedConv2d
from zoo.layers.shift_down import ShiftDown
from zoo.layers.vertical_conv2d import VerticalConv2d
from zoo.models._base import PixelModel
from zoo.models._blocks import Positive, Side, blocks
from zoo.registry import LIKELIHOODS


class GatedPixelCNN(PixelModel):
    r"""Gated PixelCNN; conditional, if asked for, on labels, vectors and maps, in every layer.

    Logits (B, likelihood.output_channels(C), H, W) for images (B, C, H, W); each depends on the pixels before it in
    raster order, all of them that are near enough, and on the channels before it of its own pixel: R, then G given R,
    then B given R and G.

    Reference: van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2.
    Deviations: those of the block, see :class:`zoo.layers.GatedBlock`; the first layer has no gates; the head sees the
    sum of the horizontal stack and the skip connections; the condition enters these, too, as plain biases.

    Args:
        channels: of the horizontal stack and the head; a multiple of the image's channels.
        vertical_channels: of the vertical stack; by default as many.
        layers: how many blocks.
        kernel_size: of the first layer of both stacks; odd.
        block: the slot for blocks, which map the streams v, h, s to new ones: the name of a registered layer, or a
            mapping of ``name`` and its arguments.
        dilations: of the blocks, in turn; a block of your own must take ``dilation`` only if one is not 1.
        likelihood: name of a registered likelihood, or a mapping of ``name`` and its arguments.
        image_shape: (C, H, W).
        num_classes, vector_size, map_channels, condition_dropout: of a conditional model; see :class:`PixelModel`.

    Example:
        >>> import torch
        >>> model = GatedPixelCNN(channels=8, layers=2, image_shape=(1, 8, 8), num_classes=10)
        >>> model.log_prob(torch.zeros(3, 1, 8, 8), labels=[0, 1, 2]).shape
        torch.Size([3])
        >>> model.sample(3, labels=7, seed=0).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        channels: Positive = 48,
        vertical_channels: Positive | None = None,
        layers: Annotated[int, Gt(0), Le(1000)] = 6,
        kernel_size: Side = 7,
        block: str | dict[str, Any] = "gated-block",
        dilations: Annotated[tuple[Side, ...], MinLen(1)] = (1,),
        likelihood: str | dict[str, Any] = "bernoulli",
        image_shape: tuple[Side, Side, Side] = (1, 28, 28),
        num_classes: Positive | None = None,
        vector_size: Positive | None = None,
        map_channels: Positive | None = None,
        condition_dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__(
            image_shape,
            LIKELIHOODS.build(likelihood),
            num_classes,
            vector_size=vector_size,
            map_channels=map_channels,
            condition_dropout=condition_dropout,
        )
        colors, wide = image_shape[0], vertical_channels or channels
        outputs = self.likelihood.output_channels(colors)
        condition = (num_classes, vector_size, map_channels)
        self.vertical = conditioned(VerticalConv2d(colors, wide, kernel_size), *condition)
        self.shift = ShiftDown()
        self.join = MaskedConv2d("B", wide, channels, 1, bias=False)
        first = MaskedConv2d("A", colors, channels, (1, kernel_size), colors=colors)
        self.horizontal = conditioned(first, *condition)
        self.blocks = nn.ModuleList(
            blocks(
                block,
                channels,
                layers,
                dilations,
                streams=3,
                num_classes=num_classes,
                vertical_channels=(wide, channels),
                vector_size=(vector_size, None),
                map_channels=(map_channels, None),
                colors=(colors, 1),
            )
        )
        self.head = Sequential(
            nn.ReLU(),
            conditioned(MaskedConv2d("B", channels, channels, 1, colors=colors), *condition),
            nn.ReLU(),
            conditioned(MaskedConv2d("B", channels, outputs, 1, colors=colors), *condition),
        )

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The logits of images, or of a front."""
        v = call(self.vertical, x, context)
        h = call(self.horizontal, x, context) + call(self.join, self.shift(v, context), context)
        s = torch.zeros_like(h)
        for block in self.blocks:
            v, h, s = block(v, h, s, context)
        return self.head(h + s, context)
