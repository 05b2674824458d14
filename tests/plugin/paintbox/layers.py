"""A third party's block, written against the public contract."""

from torch import Tensor, nn

from zoo.causal import Context
from zoo.layers import MaskedConv2d


class WideBlock(nn.Module):
    check_with = {"channels": 2}

    def __init__(self, channels: int, *, num_classes: int | None = None, dilation: int = 1, width: int = 5) -> None:
        super().__init__()
        self.conv = MaskedConv2d("B", channels, channels, width, dilation=dilation)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        return x + self.conv(x.tanh(), context)
