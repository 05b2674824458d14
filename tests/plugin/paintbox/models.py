"""A third party's model: fully visible logistic regression on the pixels nearby."""

from torch import Tensor

from zoo.causal import Context
from zoo.layers import MaskedConv2d
from zoo.models import PixelModel
from zoo.registry import LIKELIHOODS


class TinyArm(PixelModel):
    def __init__(self, *, image_shape: tuple[int, int, int] = (1, 8, 8), kernel_size: int = 5) -> None:
        super().__init__(image_shape, LIKELIHOODS.build("bernoulli"))
        self.conv = MaskedConv2d("A", image_shape[0], image_shape[0], kernel_size)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        return self.conv(x, context)
