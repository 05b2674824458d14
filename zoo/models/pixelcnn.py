"""PixelCNN, plain and conditional: a type-A masked convolution, then type-B blocks, then a head."""

from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MinLen
from torch import Tensor, nn

from zoo.causal import Context, Sequential
from zoo.layers._conditioned import conditioned
from zoo.layers.masked_conv2d import MaskedConv2d
from zoo.models._base import PixelModel
from zoo.models._blocks import Positive, Side, blocks
from zoo.registry import LIKELIHOODS


class PixelCNN(PixelModel):
    r"""PixelCNN; with ``num_classes``, Conditional PixelCNN: W * x + b + V y after every convolution.

    Logits (B, likelihood.output_channels(C), H, W) for images (B, C, H, W); each depends on the pixels before it in
    raster order, and on the channels before it of its own pixel: R, then G given R, then B given R and G. Like every
    plain PixelCNN it has a blind spot to its upper right (``zoo check`` lists it).

    Reference: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, section 3; the
    condition after van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2.3.
    Deviations: full-width residual blocks, dilated if asked for; the condition added to every convolution instead of
    inside gates.

    Args:
        channels: of every hidden layer; a multiple of the image's channels.
        layers: how many blocks.
        kernel_size: of the type-A layer; odd.
        block: the slot for blocks: the name of a registered layer, or a mapping of ``name`` and its arguments.
        dilations: of the blocks, in turn; a block of your own must take ``dilation`` only if one is not 1.
        likelihood: name of a registered likelihood, or a mapping of ``name`` and its arguments.
        image_shape: (C, H, W).
        num_classes, vector_size, map_channels, condition_dropout: of a conditional model; see :class:`PixelModel`.

    Example:
        >>> import torch
        >>> model = PixelCNN(channels=8, layers=2, image_shape=(1, 8, 8), num_classes=10)
        >>> model.log_prob(torch.zeros(3, 1, 8, 8), labels=[0, 1, 2]).shape
        torch.Size([3])
        >>> model.sample(3, labels=7, seed=0).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        channels: Positive = 64,
        layers: Annotated[int, Gt(0), Le(1000)] = 8,
        kernel_size: Side = 7,
        block: str | dict[str, Any] = "residual-block",
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
        colors = image_shape[0]
        outputs = self.likelihood.output_channels(colors)

        def convolution(mask_type: Literal["A", "B"], inputs: int, outputs: int, kernel_size: int) -> nn.Module:
            conv = MaskedConv2d(mask_type, inputs, outputs, kernel_size, colors=colors)
            return conditioned(conv, num_classes, vector_size, map_channels)

        self.net = Sequential(
            convolution("A", colors, channels, kernel_size),
            *blocks(
                block,
                channels,
                layers,
                dilations,
                num_classes=num_classes,
                vector_size=(vector_size, None),
                map_channels=(map_channels, None),
                colors=(colors, 1),
            ),
            nn.ReLU(),
            convolution("B", channels, channels, 1),
            nn.ReLU(),
            convolution("B", channels, outputs, 1),
        )

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The logits of images, or of a front."""
        return self.net(x, context)
