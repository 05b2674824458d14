"""Channel normalization: causal, because every pixel is normalized on its own."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    r"""Normalize over the channels at each pixel.

    .. math:: y_{cij} = g_c \frac{x_{cij} - \mu_{ij}}{\sqrt{\sigma^2_{ij} + \epsilon}} + b_c

    with mean and variance over c only, or over those c that are of the same color. Maps (B, channels, H, W) to the same
    shape. Batch normalization is not causal: in training, its statistics mix every pixel of the image into each pixel.

    Reference: Ba, Kiros and Hinton, Layer Normalization, 2016, section 3; applied per pixel.

    Args:
        channels: of the input.
        eps: added to the variance.
        colors: how many groups the channels are ordered by; each is normalized on its own, and sees no later one.

    Example:
        >>> ChannelNorm(16)(torch.randn(2, 16, 8, 8)).mean(1).abs().max() < 1e-5
        tensor(True)
    """

    check_with = {"channels": 4}

    def __init__(self, channels: int, eps: float = 1e-5, *, colors: int = 1) -> None:
        super().__init__()
        if channels % colors:
            raise ValueError(f"channels is {channels}; it must be a multiple of colors, {colors}")
        self.channels, self.colors = channels, colors
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize every pixel."""
        last = x.movedim(1, -1)
        if self.colors == 1:
            return F.layer_norm(last, self.weight.shape, self.weight, self.bias, self.eps).movedim(-1, 1)
        groups = last.unflatten(-1, (self.colors, -1))
        normal = F.layer_norm(groups, groups.shape[-1:], eps=self.eps).flatten(-2)
        return (normal * self.weight + self.bias).movedim(-1, 1)
