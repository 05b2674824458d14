"""PixelCNN, plain and conditional: a type-A masked convolution, then type-B blocks, then a head."""

from itertools import cycle, islice
from typing import Annotated, Any

from annotated_types import Gt, Le, MinLen
from torch import Tensor, nn

from zoo.causal import Context, Sequential
from zoo.layers.conditional_bias import conditional
from zoo.layers.masked_conv2d import MaskedConv2d
from zoo.models._base import PixelModel
from zoo.registry import LAYERS, LIKELIHOODS

Positive = Annotated[int, Gt(0)]
Side = Annotated[int, Gt(0), Le(1024)]


class PixelCNN(PixelModel):
    r"""PixelCNN; with ``num_classes``, Conditional PixelCNN: W * x + b + V y after every convolution.

    Logits (B, likelihood.output_channels(C), H, W) for images (B, C, H, W); each depends on the pixels before it in
    raster order only. Like every plain PixelCNN it has a blind spot to its upper right (``zoo check`` lists it).

    Reference: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, section 3; the
    condition after van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2.3.
    Deviations: full-width residual blocks, dilated if asked for; the condition added to every convolution instead of
    inside gates; the colour channels of one pixel are independent given the pixels before it.

    Args:
        channels: of every hidden layer.
        layers: how many blocks.
        kernel_size: of the type-A layer; odd.
        block: the slot for blocks: the name of a registered layer, or a mapping of ``name`` and its arguments.
        dilations: of the blocks, in turn; a block of your own must take ``dilation`` only if one is not 1.
        likelihood: name of a registered likelihood.
        image_shape: (C, H, W).
        num_classes: of a conditional model, or None.

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
        likelihood: str = "bernoulli",
        image_shape: tuple[Side, Side, Side] = (1, 28, 28),
        num_classes: Positive | None = None,
    ) -> None:
        super().__init__(image_shape, LIKELIHOODS.build(likelihood), num_classes)
        outputs = self.likelihood.output_channels(image_shape[0])
        blocks = []
        for dilation in islice(cycle(dilations), layers):
            dilated = {} if dilation == 1 else {"dilation": dilation}
            blocks.append(LAYERS.build(block, channels, num_classes=num_classes, **dilated))
        self.net = Sequential(
            conditional(MaskedConv2d("A", image_shape[0], channels, kernel_size), num_classes),
            *blocks,
            nn.ReLU(),
            conditional(MaskedConv2d("B", channels, channels, 1), num_classes),
            nn.ReLU(),
            conditional(MaskedConv2d("B", channels, outputs, 1), num_classes),
        )

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """The logits of images, or of a front."""
        return self.net(x, context)
