"""Gated activation: one half of the channels, squashed, passes as far as the other half opens the gate."""

import torch
from torch import Tensor, nn


class GatedActivation(nn.Module):
    r"""Multiply the tanh of the first half of the channels by the sigmoid of the second.

    .. math:: y = \tanh(a) \odot \sigma(b), \qquad x = (a, b)

    Maps (B, 2 C, H, W) to (B, C, H, W).

    Reference: van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2.1, equation 2.

    Args:
        colors: how many groups the channels are ordered by; each is halved on its own.

    Example:
        >>> GatedActivation()(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)).item()  # tanh(1) / 2
        0.3807970881462097
    """

    check_with: dict[str, int] = {}

    def __init__(self, colors: int = 1) -> None:
        super().__init__()
        self.colors = colors

    @property
    def in_channels(self) -> int:
        """The fewest channels it takes; any multiple will do."""
        return 2 * self.colors

    def forward(self, x: Tensor) -> Tensor:
        """Activate every pixel."""
        a, b = halves(x, self.colors)
        if x.dtype == torch.bfloat16:
            # Copies lie dense in memory, in the order of x: on CPUs sigmoids of bfloat16 run much faster so.
            a, b = a.clone(), b.clone()
        return torch.tanh(a) * torch.sigmoid(b)

    def extra_repr(self) -> str:
        """The constructor's arguments, as ``repr`` shows them."""
        return f"colors={self.colors}"


def halves(x: Tensor, colors: int = 1) -> tuple[Tensor, Tensor]:
    """The first and the second half of the channels, (B, C, H, W) each, of every one of ``colors`` groups of them.

    Example:
        >>> halves(torch.arange(4.0).view(1, 4, 1, 1), colors=2)[1].flatten()
        tensor([1., 3.])
    """
    first, second = x.chunk(2, 1) if colors == 1 else x.unflatten(1, (colors, 2, -1)).unbind(2)
    return first.flatten(1, -3), second.flatten(1, -3)
