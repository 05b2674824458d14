"""Categorical likelihood: every value is one of equidistant levels, and the model's outputs are their logits."""

from torch import Tensor
from torch.nn import functional as F


class Categorical:
    r"""Softmax cross-entropy over the levels, summed over an image.

    .. math:: \log p(x) = \sum_i \ell_{i, k_i} - \log \sum_k e^{\ell_{ik}}, \qquad k_i = (L - 1) x_i

    for L levels; x is (B, C, H, W) on their grid in [0, 1], the logits are (B, C L, H, W), channel by channel. Bits per
    dimension are the nats divided by C H W log 2. The levels have no order: what lies near is learnt, not assumed.

    Reference: van den Oord, Kalchbrenner and Kavukcuoglu, Pixel Recurrent Neural Networks, 2016, section 3.2.

    Args:
        levels: L; 256 for bytes.

    Example:
        >>> import math, torch
        >>> likelihood = Categorical()
        >>> logits = torch.zeros(2, 256, 4, 4)
        >>> likelihood.log_prob(logits, torch.ones(2, 1, 4, 4)) / 16 / math.log(2)  # bits per dimension
        tensor([-8., -8.])
    """

    def __init__(self, levels: int = 256) -> None:
        if levels < 2:
            raise ValueError(f"levels is {levels}; it must be at least 2")
        self.levels = levels

    def output_channels(self, channels: int) -> int:
        """How many outputs per pixel the model must have for an image of so many channels."""
        return channels * self.levels

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """log p(x) of each image: (B,) nats."""
        level = (x * (self.levels - 1)).round().long().flatten(0, 1)
        return -F.cross_entropy(self._by_channel(logits), level, reduction="none").view(x.shape).flatten(1).sum(1)

    def quantile(self, logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw by the inverse CDF, the first level where it exceeds uniform; also how far the nearest step is."""
        steps = self._by_channel(logits.to(uniform.dtype)).softmax(1).cumsum(1)[:, :-1]
        at = uniform.flatten(0, 1)[:, None]
        level = (steps <= at).sum(1).view(uniform.shape)
        nearest = (steps - at).abs().amin(1).view(uniform.shape)
        return level.to(uniform.dtype) / (self.levels - 1), nearest

    def _by_channel(self, logits: Tensor) -> Tensor:
        """(B C, L, H, W)."""
        return logits.unflatten(1, (-1, self.levels)).flatten(0, 1)
