"""Channel normalization: causal, because every pixel is normalized on its own."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.Module):
    r"""Normalize over the channels at each pixel.

    .. math:: y_{cij} = g_c \frac{x_{cij} - \mu_{ij}}{\sqrt{\sigma^2_{ij} + \epsilon}} + b_c

    with mean and variance over c only. Maps (B, channels, H, W) to the same shape. Batch normalization is not causal:
    in training, its statistics mix every pixel of the image into each pixel.

    Reference: Ba, Kiros and Hinton, Layer Normalization, 2016, section 3; applied per pixel.

    Args:
        channels: of the input.
        eps: added to the variance.

    Example:
        >>> ChannelNorm(16)(torch.randn(2, 16, 8, 8)).mean(1).abs().max() < 1e-5
        tensor(True)
    """

    check_with = {"channels": 4}

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize every pixel."""
        last = F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.movedim(-1, 1)
