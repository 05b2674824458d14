"""What a textbook does: full masked kernels in plain ``nn.Conv2d`` layers, and one forward pass per pixel to sample."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from zoo.causal import Context
from zoo.layers import MaskedConv2d
from zoo.models import PixelModel


class TextbookConv2d(nn.Conv2d):
    """The masked convolution of course notes: the full kernel, its mask multiplied in before each pass."""

    def __init__(self, layer: MaskedConv2d) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            padding="same",
            dilation=layer.dilation,
            groups=layer.groups,
            bias=layer.bias is not None,
        )
        live = torch.arange(layer.weight[0, 0].numel()) < len(layer.taps)
        self.register_buffer("mask", live.view(layer.kernel_size).to(layer.weight))
        with torch.no_grad():
            self.weight.copy_(layer.weight)
            if layer.bias is not None:
                self.bias.copy_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Mask, then convolve."""
        self.weight.data *= self.mask
        return super().forward(x)


def to_sample(model: PixelModel) -> PixelModel:
    """A copy of the model in plain convolutions, masked once: the cheapest a full kernel can be."""
    return _replaced(model, lambda layer, last: _plain(layer))


def to_train(model: PixelModel) -> PixelModel:
    """A copy of the model as textbooks train it: a batch normalization after each masked layer but the logits'."""
    return _replaced(
        model,
        lambda layer, last: (
            TextbookConv2d(layer) if last else nn.Sequential(TextbookConv2d(layer), nn.BatchNorm2d(layer.out_channels))
        ),
    )


def draw_pixel(model: PixelModel, x: Tensor, position: int, context: Context) -> None:
    """One of the passes of the textbook sampler: all logits of all images, of which one pixel is used."""
    row, column = divmod(position, x.shape[3])
    logits = model(x, context)[:, :, row, column]
    x[:, :, row, column] = torch.bernoulli(torch.sigmoid(logits)).to(x.dtype)


def _plain(layer: MaskedConv2d) -> nn.Conv2d:
    masked = TextbookConv2d(layer)
    masked.weight.data *= masked.mask
    # The same object without its mask and its forward: an nn.Conv2d.
    convolution = nn.Conv2d(1, 1, 1)
    convolution.__dict__.update(masked.__dict__)
    del convolution.mask
    return convolution


def _replaced(model: PixelModel, replacement: Callable[[MaskedConv2d, bool], nn.Module]) -> PixelModel:
    model = copy.deepcopy(model)
    last = [part for part in model.modules() if isinstance(part, MaskedConv2d)][-1]
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, MaskedConv2d):
                setattr(parent, name, replacement(child, child is last))
    return model
