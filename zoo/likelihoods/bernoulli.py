"""Bernoulli likelihood: every value is 0 or 1, and the model's output is its logit."""

import torch
from torch import Tensor
from torch.nn import functional as F


class Bernoulli:
    r"""Binary cross-entropy, summed over an image.

    .. math:: \log p(x) = \sum_i x_i \log q_i + (1 - x_i) \log (1 - q_i), \qquad q_i = \operatorname{sigmoid}(\ell_i)

    Any likelihood has these attributes and methods; x is (B, C, H, W) on the grid of ``levels`` equidistant values in
    [0, 1], and the model's output ("logits" here) is (B, output_channels(C), H, W).

    Reference: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, section 5.1.

    Example:
        >>> logits = torch.zeros(2, 1, 28, 28)
        >>> Bernoulli().log_prob(logits, torch.ones(2, 1, 28, 28)) / 784
        tensor([-0.6931, -0.6931])
    """

    levels = 2

    def output_channels(self, channels: int) -> int:
        """How many outputs per pixel the model must have for an image of so many channels."""
        return channels

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """log p(x) of each image: (B,) nats."""
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)

    def quantile(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw by the inverse CDF, 1 where uniform >= 1 - q; also how far uniform is from the CDF's nearest step."""
        edge = torch.sigmoid(-logits.to(uniform.dtype))
        return (uniform >= edge).to(uniform.dtype), (uniform - edge).abs()
