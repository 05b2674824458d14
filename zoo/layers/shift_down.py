"""Shift down: what was known of a row is given to the next one."""

from torch import Tensor, nn
from torch.nn import functional as F

from zoo.causal import Context


class ShiftDown(nn.Module):
    r"""Move every feature down by one row; the first row becomes zero.

    .. math:: y_{ij} = x_{i-1, j}, \qquad x_{-1, j} = 0

    Maps (B, C, H, W) to the same shape. What sees a row as a whole, a vertical stack, may after it be seen by every
    pixel of the row below.

    Reference: van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2.2.

    Example:
        >>> import torch
        >>> ShiftDown()(torch.tensor([[[[1., 2.], [3., 4.]]]]))
        tensor([[[[0., 0.],
                  [1., 2.]]]])
    """

    check_with: dict[str, int] = {}
    taps = ((-1, 0),)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Shift a whole image, or fetch from the row above a front."""
        if context is not None and context.front is not None:
            return context.front.gather(self, x)
        return F.pad(x, (0, 0, 1, -1))
