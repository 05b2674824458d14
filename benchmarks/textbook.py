"""What a textbook does: full masked kernels in plain ``nn.Conv2d`` layers, and one forward pass per pixel to sample."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.causal import Context
from zoo.layers import MaskedConv2d
from zoo.models import PixelModel


class TextbookConv2d(nn.Conv2d):
    """The masked convolution of course notes: the full kernel, its mask multiplied in before each pass."""

    def __init__(self, layer: MaskedConv2d) -> None:
        super().__init__(**_arguments(layer))
        self.register_buffer("mask", _mask(layer))
        self.load_state_dict({"mask": self.mask} | layer.state_dict())

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
    at = (slice(None), slice(None), slice(row, row + 1), slice(column, column + 1))
    x[at] = model.likelihood.quantile(model(x, context)[at], torch.rand(x[at].shape))[0]


def _plain(layer: MaskedConv2d) -> nn.Conv2d:
    convolution = nn.Conv2d(**_arguments(layer))
    convolution.load_state_dict(layer.state_dict())
    convolution.weight.data *= _mask(layer)
    return convolution


def _arguments(layer: MaskedConv2d) -> dict[str, Any]:
    """What builds a convolution with the layer's full kernel."""
    names = ("in_channels", "out_channels", "kernel_size", "dilation", "groups")
    return {name: getattr(layer, name) for name in names} | {"padding": "same", "bias": layer.bias is not None}


def _mask(layer: MaskedConv2d) -> Tensor:
    live = torch.arange(layer.weight[0, 0].numel()) < len(layer.taps)
    return live.view(layer.kernel_size).to(layer.weight)


def _replaced(model: PixelModel, replacement: Callable[[MaskedConv2d, bool], nn.Module]) -> PixelModel:
    model = copy.deepcopy(model)
    last = [part for part in model.modules() if isinstance(part, MaskedConv2d)][-1]
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, MaskedConv2d):
                setattr(parent, name, replacement(child, child is last))
    return model
