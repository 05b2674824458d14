"""Vertical convolution: sees whole rows, the current one and those above, so that nothing above is out of sight."""

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from zoo.causal import Context, Tap


class VerticalConv2d(nn.Conv2d):
    r"""Convolve with a window of rows that ends in the current one, to the left and to the right.

    .. math:: y_{ij} = b + \sum_{u = 1 - m}^{0} \sum_{|v| \le n / 2} W_{uv} x_{i+u, j+v}

    for m rows and n columns. Maps (B, in_channels, H, W) to (B, out_channels, H, W). Its output sees the current row as
    a whole, so it must pass a :class:`zoo.layers.ShiftDown` before a pixel of that row may see it.

    Reference: van den Oord et al., Conditional Image Generation with PixelCNN Decoders, 2016, section 2.2, the vertical
    stack. Deviation: the current row included and all shifted down when it joins, instead of masked in each layer; what
    is seen is the same.

    Args:
        in_channels, out_channels, bias: as in ``nn.Conv2d``.
        kernel_size: (rows, columns), or one number for columns and about half as many rows; columns odd.
        dilation: distance between the taps, one number or (rows, columns).

    Raises:
        ValueError: an even number of columns.

    Example:
        >>> import torch
        >>> VerticalConv2d(1, 16, 7)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 16, 28, 28])
        >>> VerticalConv2d(1, 1, (2, 3)).taps
        ((-1, 1), (-1, 0), (-1, -1), (0, 1), (0, 0), (0, -1))
    """

    check_with = {"in_channels": 2, "out_channels": 3, "kernel_size": 5}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
    ) -> None:
        rows, columns = (kernel_size // 2 + 1, kernel_size) if isinstance(kernel_size, int) else kernel_size
        if columns % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; its columns must be odd, so that there is a centre")
        super().__init__(in_channels, out_channels, (rows, columns), dilation=_pair(dilation), bias=bias)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The offsets (rows, columns) it reads, row by row, each from right to left."""
        (rows, columns), (down, right) = self.kernel_size, self.dilation
        return tuple(
            (down * (row - rows + 1), right * (column - columns // 2))
            for row in range(rows)
            for column in reversed(range(columns))
        )

    def _side_by_side(self) -> Tensor:
        """The weight as one matrix product takes it: (out, taps * in)."""
        return self.weight.flip(3).permute(0, 2, 3, 1).flatten(1)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        """Convolve a whole image, or multiply the taps of a front."""
        if context is not None and context.front is not None:
            return context.front.linear(self, x, context.front.once(self, self._side_by_side), self.bias)
        (rows, columns), (down, right) = self.kernel_size, self.dilation
        x = F.pad(x, (0, 0, down * (rows - 1), 0))
        return F.conv2d(x, self.weight, self.bias, padding=(0, right * (columns // 2)), dilation=self.dilation)
